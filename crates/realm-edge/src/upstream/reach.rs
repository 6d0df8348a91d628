//! Where a service beside this process is, and whether the machine's operator allows to go there: by the
//! path of its socket, or by each address that its name has at that moment.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use realm_model::upstream::{Address, Allowed, Host};
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::pool::{Dial, Io};
use crate::backend::BoxFuture;

/// Addresses of a name that are tried: a service has a few.
const ADDRESSES_MAX: usize = 8;

/// The way to a service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reach {
    address: Address,
    allowed: Arc<[Allowed]>,
}

impl Reach {
    /// To `address`, where one of these rules allows it.
    pub fn new(address: Address, allowed: Arc<[Allowed]>) -> Self {
        Self { address, allowed }
    }

    /// Where the service is allowed at this moment.
    ///
    /// # Errors
    /// `PermissionDenied` where no rule allows it; what a look-up of its name says.
    pub async fn check(&self) -> io::Result<()> {
        match &self.address {
            Address::Unix(path) => self.check_unix(path),
            Address::Tcp(host, port) => self.addresses(host, *port).await.map(drop),
        }
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// Those of [`Reach::check`], and why there is none.
    pub async fn connect(&self) -> io::Result<Box<dyn Io>> {
        let (host, port) = match &self.address {
            Address::Unix(path) => {
                self.check_unix(path)?;
                return Ok(Box::new(UnixStream::connect(path).await?));
            }
            Address::Tcp(host, port) => (host, *port),
        };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for address in self.addresses(host, port).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    return Ok(Box::new(stream));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn check_unix(&self, path: &str) -> io::Result<()> {
        let mut rules = self.allowed.iter();
        match rules.any(|rule| rule.permits_unix(path)) {
            true => Ok(()),
            false => Err(self.denied()),
        }
    }

    /// The addresses that are allowed; none is an error.
    async fn addresses(&self, host: &Host, port: u16) -> io::Result<Vec<SocketAddr>> {
        let all: Vec<SocketAddr> = match host {
            Host::Ip(address) => vec![SocketAddr::new(*address, port)],
            Host::Name(name) => lookup_host((name.as_str(), port)).await?.collect(),
        };
        let is_allowed = |address: &SocketAddr| {
            let mut rules = self.allowed.iter();
            rules.any(|rule| rule.permits(address.ip(), port))
        };
        let allowed = all.iter().copied().filter(is_allowed).take(ADDRESSES_MAX);
        let allowed: Vec<SocketAddr> = allowed.collect();
        match allowed.is_empty() && !all.is_empty() {
            true => Err(self.denied()),
            false => Ok(allowed),
        }
    }

    fn denied(&self) -> io::Error {
        let message = format!("node.toml does not allow the upstream `{}`", self.address);
        io::Error::new(io::ErrorKind::PermissionDenied, message)
    }
}

impl Dial for Reach {
    fn dial(&self) -> BoxFuture<'_, io::Result<Box<dyn Io>>> {
        Box::pin(self.connect())
    }
}
