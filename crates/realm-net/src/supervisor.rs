//! Starts the network, and starts it anew after a panic, with the same members, addresses and ports.

use std::net::{SocketAddr, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol as Part;
use realm_model::key::SecretKey;
use tokio::sync::{mpsc, watch};

use crate::book::ip_of;
use crate::event::{Event, count};
use crate::handle::{Command, Handle};
use crate::kept::{EVENTS_MAX, Kept};
use crate::swarm::{End, Net};
use crate::{Config, Error, identity};

/// Commands that wait for the loop.
const COMMANDS_MAX: usize = 1_024;
/// Pauses before a restart: something that panics again and again must not take a core.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// How long the ports of a swarm that ended are waited for, and how often they are looked at.
const RELEASE_TIME_MAX: Duration = Duration::from_secs(10);
const RELEASE_LOOK: Duration = Duration::from_millis(20);
/// After that long without a panic the pauses begin anew.
const CALM: Duration = Duration::from_secs(60);

/// Starts the network in a task of the current runtime. Fails when an address cannot be listened on.
pub fn spawn(config: Config) -> Result<(Handle, mpsc::Receiver<Event>), Error> {
    let keys = identity::keypair(&config.seed)?;
    let me = SecretKey::from_seed(&config.seed).public();
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (views, view) = watch::channel(Arc::default());
    let mut kept = Kept::new(config, keys, me, events, views)?;
    let (commands, inbox) = mpsc::channel(COMMANDS_MAX);
    let handle = Handle {
        commands,
        views: view,
        counters: kept.counters.clone(),
        me,
        sockets: kept.sockets.runtime().clone(),
    };
    let mut first = Net::new(&mut kept)?;
    first.listen_now()?;
    let parts = first.into_parts();
    tokio::spawn(Box::pin(supervise(kept, inbox, parts)));
    Ok((handle, receiver))
}

async fn supervise(mut kept: Kept, mut inbox: mpsc::Receiver<Command>, first: crate::swarm::Parts) {
    let mut parts = Some(first);
    let mut pause = PAUSE_FIRST;
    loop {
        let begun = tokio::time::Instant::now();
        let given = parts.take();
        let life = Box::pin(once(&mut kept, &mut inbox, given));
        let end = AssertUnwindSafe(life).catch_unwind().await;
        kept.tell_all_down();
        kept.book.restart();
        released(&kept.listen.clone()).await;
        match end {
            Ok(End::Stopped(done)) => {
                if let Some(done) = done {
                    let _ = done.send(());
                }
                return;
            }
            Ok(End::Anew) => {}
            Ok(End::Broken(cause)) => panicked(&mut kept, cause, begun.elapsed(), &mut pause).await,
            Err(panic) => {
                panicked(&mut kept, text(panic.as_ref()), begun.elapsed(), &mut pause).await
            }
        }
    }
}

/// Waits until the ports of a swarm that is gone can be bound again: its tasks end a little later.
async fn released(listened: &[Multiaddr]) {
    let udp: Vec<SocketAddr> = listened.iter().filter_map(udp_of).collect();
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < RELEASE_TIME_MAX && !udp.iter().all(|at| UdpSocket::bind(at).is_ok()) {
        tokio::time::sleep(RELEASE_LOOK).await;
    }
}

fn udp_of(address: &Multiaddr) -> Option<SocketAddr> {
    let ip = address.iter().find_map(|part| ip_of(&part))?;
    address.iter().find_map(|part| {
        if let Part::Udp(port) = part {
            Some(SocketAddr::new(ip, port))
        } else {
            None
        }
    })
}

async fn once(
    kept: &mut Kept,
    inbox: &mut mpsc::Receiver<Command>,
    parts: Option<crate::swarm::Parts>,
) -> End {
    let net = match parts {
        Some(parts) => Ok(Net::from_parts(kept, parts)),
        None => Net::new(kept),
    };
    match net {
        Ok(net) => Box::pin(net.run(inbox)).await,
        Err(error) => End::Broken(error.to_string()),
    }
}

async fn panicked(kept: &mut Kept, cause: String, lived: Duration, pause: &mut Duration) {
    tracing::error!(%cause, "the network panicked and is started anew");
    count(&kept.counters.restarts);
    kept.tell(Event::Restarted { cause });
    if lived > CALM {
        *pause = PAUSE_FIRST;
    }
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_LAST);
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("no message").chars().take(200).collect()
}
