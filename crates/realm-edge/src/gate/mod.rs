//! What is asked of a request before its component is: whether rules let it through, and whether its
//! client has one left. Not what the rules say: that is `realm_model::front`.
//!
//! Only the node that met the client asks: what another node brings was let through there.

mod clients;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use realm_model::front::{self, Asked, Fronted, Rule};
use realm_model::name::ComponentName;

use crate::cache::{Cache, Caching};
use crate::path::readings;
use crate::refusal::Refusal;
use crate::throttle::Throttle;
use clients::Clients;

/// What holds for the requests of one component.
pub struct Gate {
    component: ComponentName,
    fronted: Fronted,
    state: Arc<State>,
    caching: Option<Caching>,
}

/// What of it outlives a table: clients do not begin anew whenever a replica comes or goes.
struct State {
    clients: Clients,
    refused_by_rule: Throttle,
    refused_by_rate: Throttle,
}

/// The states that tables in force hold, by app: its versions share their clients.
#[derive(Default)]
pub(crate) struct States(Mutex<BTreeMap<String, Weak<State>>>);

/// Who asks, before its headers are made fit for guests.
pub(crate) struct Client {
    /// As whom it is counted.
    pub(crate) address: IpAddr,
    /// Who it may be, where that is not known: rules have to let both through.
    pub(crate) either: Option<[IpAddr; 2]>,
    /// The host as routes match it.
    pub(crate) host: Box<str>,
}

impl States {
    /// The gates of a table that comes into force.
    pub(crate) fn gates(
        &self,
        fronted: BTreeMap<ComponentName, Fronted>,
        cache: Option<&Arc<Cache>>,
    ) -> BTreeMap<ComponentName, Gate> {
        let cached = fronted.iter().filter(|(_, fronted)| fronted.front.cache);
        let cached = cached.map(|(component, fronted)| (component.clone(), fronted.revision));
        let mut caching = cache.map_or_else(BTreeMap::new, |cache| cache.of(cached.collect()));
        // Each change is one of the map's own.
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| state.strong_count() > 0);
        let gates = fronted.into_iter().map(|(component, fronted)| {
            let known = states.get(component.app()).and_then(Weak::upgrade);
            let state = known.unwrap_or_else(|| {
                let state = Arc::new(State::new());
                states.insert(component.app().to_owned(), Arc::downgrade(&state));
                state
            });
            let gate = Gate {
                caching: caching.remove(&component),
                component: component.clone(),
                fronted,
                state,
            };
            (component, gate)
        });
        gates.collect()
    }
}

impl State {
    fn new() -> Self {
        Self {
            clients: Clients::new(),
            refused_by_rule: Throttle::default(),
            refused_by_rate: Throttle::default(),
        }
    }
}

impl Gate {
    /// What requests are held against.
    pub(crate) fn rules(&self) -> &[Rule] {
        &self.fronted.front.rules
    }

    /// The cache, where the component has one.
    pub(crate) const fn caching(&self) -> Option<&Caching> {
        self.caching.as_ref()
    }

    /// Whether a request passes, as its component would see it. What rules refuse costs its client nothing.
    pub(crate) fn admit(
        &self,
        client: &Client,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let front = &self.fronted.front;
        if !front.rules.is_empty() {
            let readings = readings(path);
            let readings: Vec<&str> = readings.iter().map(AsRef::as_ref).collect();
            let values = |name: &str| {
                let lines = headers.get_all(name);
                lines.iter().map(http::HeaderValue::as_bytes)
            };
            let is_refused = |client_address: &IpAddr| {
                let asked = Asked {
                    client: *client_address,
                    method: method.as_str(),
                    host: &client.host,
                    readings: &readings,
                };
                front::refused_by(&front.rules, &asked, values)
            };
            let whoever = match &client.either {
                None => std::slice::from_ref(&client.address),
                Some(either) => either,
            };
            if let Some(rule) = whoever.iter().find_map(is_refused) {
                self.tell_rule(client, rule);
                return Err(Refusal::denied_by_rule());
            }
        }
        if let Some(limit) = front.per_client {
            let taken = self
                .state
                .clients
                .take(client.address, limit, Instant::now());
            if let Err(wait) = taken {
                self.tell_rate(client);
                return Err(Refusal::too_many_requests(seconds(wait)));
            }
        }
        Ok(())
    }

    fn tell_rule(&self, client: &Client, rule: usize) {
        if let Some(count) = self.state.refused_by_rule.count(Instant::now()) {
            let (component, client) = (&self.component, client.address);
            tracing::warn!(%component, %client, rule, count, "a rule refuses requests");
        }
    }

    fn tell_rate(&self, client: &Client) {
        if let Some(count) = self.state.refused_by_rate.count(Instant::now()) {
            let (component, client) = (&self.component, client.address);
            tracing::warn!(%component, %client, count, "a client sends more requests than it may");
        }
    }
}

/// A wait in whole seconds, and never none.
fn seconds(wait: Duration) -> u32 {
    let more = u64::from(wait.subsec_nanos() > 0);
    u32::try_from(wait.as_secs().saturating_add(more).max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use realm_model::front::PerClient;

    use super::*;

    fn fronted(burst: u32) -> Fronted {
        let per_client = PerClient {
            requests_per_sec: 1,
            burst,
        };
        Fronted {
            front: realm_model::front::Front {
                per_client: Some(per_client),
                ..realm_model::front::Front::default()
            },
            revision: None,
        }
    }

    #[test]
    fn clients_are_remembered_from_table_to_table_and_by_all_versions_of_an_app() {
        let states = States::default();
        let name = |text: &str| text.parse::<ComponentName>().unwrap();
        let table = |names: &[&str]| {
            states.gates(
                names.iter().map(|text| (name(text), fronted(2))).collect(),
                None,
            )
        };
        let client = Client {
            address: "203.0.113.7".parse().unwrap(),
            either: None,
            host: "a".into(),
        };
        let ask = |gates: &BTreeMap<ComponentName, Gate>, component: &str| {
            let headers = HeaderMap::new();
            let admitted = gates[&name(component)].admit(&client, &Method::GET, "/", &headers);
            admitted.map_err(|refusal| refusal.code)
        };
        let first = table(&["a@blue", "b"]);
        assert_eq!(ask(&first, "a@blue"), Ok(()));
        let second = table(&["a@blue", "a@green", "b"]);
        drop(first);
        assert_eq!(ask(&second, "a@green"), Ok(()));
        assert_eq!(ask(&second, "a@blue"), Err("too-many-requests"));
        assert_eq!(ask(&second, "b"), Ok(()));
        // What no table holds is gone.
        drop(second);
        assert_eq!(ask(&table(&["a@blue"]), "a@blue"), Ok(()));
        assert_eq!(states.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn a_client_is_told_whole_seconds() {
        assert_eq!(seconds(Duration::from_nanos(1)), 1);
        assert_eq!(seconds(Duration::from_secs(1)), 1);
        assert_eq!(seconds(Duration::from_millis(1_001)), 2);
        assert_eq!(seconds(Duration::MAX), u32::MAX);
    }
}
