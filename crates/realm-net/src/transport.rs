//! Sockets, encryption, multiplexing: QUIC (TLS 1.3), TCP (Noise, yamux), names, relayed circuits.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use libp2p::dns::{ResolverConfig, ResolverOpts};
use libp2p::identity::Keypair;
use libp2p::{Swarm, SwarmBuilder, noise, quic, relay, swarm, tcp, yamux};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::Error;
use crate::behaviour::Behaviour;
use crate::sockets::On;

/// Streams that a peer may have open over QUIC: who wants more waits for one to end. Each connection
/// holds two hash tables with an entry for every stream that may come, whether it comes or not, and
/// for its own that are open: together 25 KiB while they fit 512 places (448 entries), and twice as
/// much with each doubling.
const QUIC_STREAMS_MAX: u32 = 384;
/// Bytes that a peer may send on one stream before they are read. At 50 ms of round trip that is
/// 10 MB/s per stream; larger windows are memory that a peer can make this process hold.
const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
/// The same for all streams of a connection together: 96 answers whose clients do not read, as many as
/// there are at once, must not take the room of all others, signs of life among them.
const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// A QUIC connection over which nothing comes is dead. Members are found out sooner, by ping.
const QUIC_IDLE_TIME_MAX: Duration = Duration::from_secs(10);
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Streams of one connection over TCP: as over QUIC, and one more ends the connection. Each may hold 256
/// KiB that nobody has read yet, before it is known who the peer is: 96 MiB.
const TCP_STREAMS_MAX: usize = 384;
/// A handshake, with the choice of protocols.
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(5);
/// A connection of a client or stranger without a stream ends after that.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
/// Streams of one connection that have not said yet what they are for.
const NEGOTIATING_MAX: usize = 128;

/// Told when a task of a connection panics: the swarm would wait for it for ever.
#[derive(Clone, Default)]
pub(crate) struct Alarm(Arc<Notify>);

impl Alarm {
    pub(crate) async fn rung(&self) {
        self.0.notified().await;
    }
}

fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(TCP_STREAMS_MAX);
    config
}

fn quic(keys: &Keypair) -> quic::tokio::Transport {
    let mut config = quic::Config::new(keys);
    config.max_concurrent_stream_limit = QUIC_STREAMS_MAX;
    config.max_stream_data = STREAM_WINDOW_BYTES;
    config.max_connection_data = CONNECTION_WINDOW_BYTES;
    config.max_idle_timeout = u32::try_from(QUIC_IDLE_TIME_MAX.as_millis()).unwrap_or(u32::MAX);
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.handshake_timeout = HANDSHAKE_TIME_MAX;
    quic::tokio::Transport::new(config)
}

/// Makes the swarm, with the sockets of QUIC on `sockets`; the behaviour is made by `make`, of the
/// relay's client half.
pub(crate) fn swarm(
    keys: &Keypair,
    sockets: &Handle,
    alarm: &Alarm,
    make: impl FnOnce(relay::client::Behaviour) -> Result<Behaviour, Error>,
) -> Result<Swarm<Behaviour>, Error> {
    let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
    let base = || -> Result<_, Error> {
        SwarmBuilder::with_existing_identity(keys.clone())
            .with_tokio()
            .with_tcp(
                tcp::Config::default().nodelay(true),
                noise::Config::new,
                yamux,
            )
            .map_err(|error| setup(&error))?
            .with_other_transport(|keys| On::new(sockets.clone(), quic(keys)))
            .map_err(|error| setup(&error))
    };
    let config = swarm_config(alarm);
    let mut made = Ok(());
    let behaviour = |_: &Keypair, relay| {
        make(relay).map_err(|error| {
            let text = error.to_string();
            made = Err(error);
            Box::<dyn std::error::Error + Send + Sync>::from(text)
        })
    };
    // The two have types that cannot be named, so the rest is written once, as a macro.
    macro_rules! rest {
        ($builder:expr) => {
            $builder
                .with_relay_client(noise::Config::new, yamux)
                .map_err(|error| setup(&error))?
                .with_behaviour(behaviour)
                .map(|builder| {
                    builder
                        .with_swarm_config(|_| config)
                        .with_connection_timeout(HANDSHAKE_TIME_MAX)
                        .build()
                })
                .map_err(|error| setup(&error))
        };
    }
    let swarm = match base()?.with_dns() {
        Ok(builder) => rest!(builder),
        // A machine without `resolv.conf` dials by number; nobody else's name servers are asked.
        Err(_) => {
            rest!(base()?.with_dns_config(ResolverConfig::default(), ResolverOpts::default()))
        }
    };
    made?;
    swarm
}

/// What libp2p gives to run.
type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn swarm_config(alarm: &Alarm) -> swarm::Config {
    let alarm = alarm.clone();
    swarm::Config::with_executor(move |task: Task| {
        let alarm = alarm.clone();
        tokio::spawn(async move {
            let task = std::panic::AssertUnwindSafe(task);
            if task.catch_unwind().await.is_err() {
                alarm.0.notify_one();
            }
        });
    })
    .with_idle_connection_timeout(IDLE_TIME_MAX)
    .with_max_negotiating_inbound_streams(NEGOTIATING_MAX)
}
