//! What a connection costs: one node here, and as many members as asked for in another process.
//!
//! `cargo run --release -p realm-net --example memory -- 16`

#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use realm_model::key::{PublicKey, SecretKey};
use realm_net::{Admission, Config, Event, Handle, Protocol, Topic, Transport as _, spawn};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc::Receiver;

type Failure = Box<dyn std::error::Error>;

/// Bytes sent through one stream to see how fast it is.
const STREAM_BYTES: usize = 256 * 1024 * 1024;

fn seed(number: u16) -> [u8; 32] {
    let mut seed = [9; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    seed
}

fn key(number: u16) -> PublicKey {
    SecretKey::from_seed(&seed(number)).public()
}

async fn node(number: u16, count: u16) -> Result<(Handle, Receiver<Event>, String), Failure> {
    let mut config = Config::new(seed(number));
    config.realm = Some("memory".to_owned());
    config.listen = vec!["/ip4/127.0.0.1/udp/0/quic-v1".to_owned()];
    config.limits.full_mesh_max = usize::from(u16::MAX);
    let (net, mut events) = spawn(config)?;
    // The others know this node and nobody else: only its connections are counted.
    let members = if number == 0 {
        (0..=count).map(key).collect()
    } else {
        [0, number].map(key).into()
    };
    net.admit(Admission {
        members,
        ..Admission::default()
    })
    .await?;
    loop {
        if let Some(Event::Listening { address }) = events.recv().await {
            return Ok((net, events, address));
        }
    }
}

/// The memory of this process in KiB: all of it, and what is not files.
fn resident_kib() -> Result<(u64, u64), Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok())
            .unwrap_or(0)
    };
    Ok((field("VmRSS:"), field("RssAnon:")))
}

async fn others(count: u16) -> Result<(), Failure> {
    let mut kept = Vec::new();
    for number in 1..=count {
        let (net, mut events, address) = node(number, count).await?;
        println!("{address}");
        kept.push(net);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let Event::Stream { incoming, .. } = event {
                    tokio::spawn(async move {
                        let mut stream = incoming.accept().await?;
                        tokio::io::copy(&mut stream, &mut tokio::io::sink())
                            .await
                            .ok();
                        stream.shutdown().await.ok();
                        Ok::<(), realm_net::Error>(())
                    });
                }
            }
        });
    }
    std::future::pending::<()>().await;
    Ok(())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let count: u16 = arguments.next().map_or(Ok(16), |text| text.parse())?;
    if arguments.next().is_some() {
        return others(count).await;
    }
    let (net, mut events, _) = node(0, count).await?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = resident_kib()?;
    let mut process = Command::new(std::env::current_exe()?)
        .args([count.to_string(), "others".to_owned()])
        .stdout(Stdio::piped())
        .spawn()?;
    let output = BufReader::new(process.stdout.take().ok_or("no output")?);
    for (number, address) in (1..=count).zip(output.lines()) {
        net.addresses(key(number), vec![address?])?;
    }
    let mut views = net.watch();
    let all = |views: &std::sync::Arc<Vec<realm_net::PeerView>>| {
        views.iter().filter(|view| view.hints).count() == usize::from(count)
    };
    views.wait_for(all).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let after = resident_kib()?;
    let each = (after.1.saturating_sub(before.1)) / u64::from(count);
    println!(
        "alone: {} KiB resident, {} of it not files",
        before.0, before.1
    );
    println!(
        "{count} connections: {} KiB resident, {} of it not files: {each} KiB each",
        after.0, after.1
    );
    for number in 0u32..500 {
        net.publish(
            Topic::Records,
            [number.to_le_bytes().as_slice(), &[0; 2_044]].concat(),
        )?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!(
        "after 500 hints of 2 KiB: {} KiB not files",
        resident_kib()?.1
    );

    let mut stream = net.open(key(1), Protocol::Tunnel).await?;
    let block = vec![0; 64 * 1024];
    let begun = Instant::now();
    for _ in 0..STREAM_BYTES / block.len() {
        stream.write_all(&block).await?;
    }
    stream.shutdown().await?;
    let _ = stream.read(&mut [0]).await;
    let mib_per_s = STREAM_BYTES as f64 / 1_048_576.0 / begun.elapsed().as_secs_f64();
    println!(
        "one stream: {mib_per_s:.0} MiB/s; after it {} KiB not files",
        resident_kib()?.1
    );
    process.kill()?;
    process.wait()?;
    Ok(())
}
