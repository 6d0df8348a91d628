//! The edge over real sockets on the loopback, with backends made of closures.
//!
//! Malformed things go through a raw `TcpStream`, the rest through hyper's client. Nothing sleeps:
//! tests wait for what they expect, within a time that only a failure uses up.

mod apart;
mod applications;
mod backends;
mod balance;
mod bodies;
mod caching;
mod caps;
mod clients;
mod crossings;
mod crowds;
mod doorkeeping;
mod early;
mod fastcgi;
mod fastcgi_floods;
mod floods;
mod fronts;
mod greedy;
mod herds;
mod hostile;
mod liars;
mod lifecycle;
mod ports;
mod pressure;
mod proofs;
mod proxied;
mod records;
mod renewing;
mod requests;
mod responses;
mod routing;
mod secure;
mod services;
mod shutdown;
mod silence;
mod stalls;
mod support;
mod tls;
mod tunnels;
mod upstreams;
mod websockets;
