//! Gossip with the settings of a small trusted group that may hold a traitor.
//!
//! Signed by the author, checked by the agent before it goes on, two topics, nothing else. What is
//! lost here comes by anti-entropy. (Gossip that does not look at signatures takes them off what it
//! passes on, and whoever does look then takes the one in between for a liar.)

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use libp2p::gossipsub::{
    Behaviour, ConfigBuilder, IdentTopic, IdentityTransform, MessageAuthenticity, MessageId,
    PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode, Version,
    WhitelistSubscriptionFilter,
};
use libp2p::identity::Keypair;
use sha2::{Digest as _, Sha256};

use crate::Error;
use crate::class::{Names, Topic};

/// Largest hint. A record that is larger is fetched.
pub(crate) const HINT_BYTES_MAX: usize = 60 * 1024;
/// Largest message on the wire: a hint with its signature and framing. What a peer announces beyond
/// it ends the stream.
const WIRE_BYTES_MAX: usize = 64 * 1024;
/// Messages that wait for a slow neighbour; more are dropped for it. 128 hints of 2 KiB are 256 KiB.
const SENDING_MAX: usize = 128;
/// How long a message is recognised as a repetition: longer than a copy travels, and each that goes round is
/// remembered for so long, with a few hundred bytes. What comes later is older than what is known, and goes no
/// further.
const REPEATED_TIME: Duration = Duration::from_secs(60);
/// Below this score nothing of a peer is heard: four wrong hints in a row, or a flood of broken rules.
const GRAYLIST_SCORE: f64 = -80.0;
/// A member's own score, so that one slip costs nothing.
pub(crate) const MEMBER_SCORE: f64 = 10.0;
/// What a single wrong hint costs, squared by libp2p: three in a row cost 90.
const WRONG_HINT_WEIGHT: f64 = -10.0;

pub(crate) type Hints = Behaviour<IdentityTransform, WhitelistSubscriptionFilter>;

pub(crate) fn topic(names: &Names, topic: Topic) -> IdentTopic {
    IdentTopic::new(names.topic(topic))
}

pub(crate) fn behaviour(keys: &Keypair, names: &Names) -> Result<Option<Hints>, Error> {
    let Some(protocol) = names.of("hint") else {
        return Ok(None);
    };
    let setup = |error: &dyn std::fmt::Display| Error::Setup(error.to_string());
    let config = ConfigBuilder::default()
        .protocol_id(protocol.as_ref().to_owned(), Version::V1_1)
        .validate_messages()
        .validation_mode(ValidationMode::Strict)
        .message_id_fn(|message| MessageId::from(Sha256::digest(&message.data).to_vec()))
        .max_transmit_size(WIRE_BYTES_MAX)
        .flood_publish(true)
        // As many copies come by as a node has neighbours in the mesh: most of what gossip costs.
        .mesh_n(4)
        .mesh_n_low(3)
        .mesh_n_high(6)
        .heartbeat_interval(Duration::from_secs(1))
        .history_length(5)
        .history_gossip(3)
        .duplicate_cache_time(REPEATED_TIME)
        .connection_handler_queue_len(SENDING_MAX)
        .max_ihave_messages_heartbeat(10)
        // A neighbour that left and came back must not be shut out for a minute.
        .prune_backoff(Duration::from_secs(5))
        .unsubscribe_backoff(Duration::from_secs(1))
        .build()
        .map_err(|error| setup(&error))?;
    let topics: Vec<_> = Topic::ALL.iter().map(|one| topic(names, *one)).collect();
    let listed: HashSet<_> = topics.iter().map(IdentTopic::hash).collect();
    let mut hints = Hints::new_with_subscription_filter(
        MessageAuthenticity::Signed(keys.clone()),
        config,
        WhitelistSubscriptionFilter(listed.clone()),
    )
    .map_err(|error| setup(&error))?;
    let scores = PeerScoreParams {
        topics: listed
            .into_iter()
            .map(|hash| (hash, topic_score()))
            .collect::<HashMap<_, _>>(),
        app_specific_weight: 1.0,
        // Many nodes behind one address are a rack, not an attack: all of them are approved.
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_weight: -1.0,
        behaviour_penalty_threshold: 6.0,
        behaviour_penalty_decay: 0.8,
        ..PeerScoreParams::default()
    };
    let thresholds = PeerScoreThresholds {
        gossip_threshold: -20.0,
        publish_threshold: -40.0,
        graylist_threshold: GRAYLIST_SCORE,
        ..PeerScoreThresholds::default()
    };
    hints
        .with_peer_score(scores, thresholds)
        .map_err(|error| setup(&error))?;
    for topic in &topics {
        hints.subscribe(topic).map_err(|error| setup(&error))?;
    }
    Ok(Some(hints))
}

/// Only wrong hints count. Who delivers first or stays long is no virtue among approved nodes, and
/// a quiet realm must not make anybody look bad.
fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.0,
        first_message_deliveries_weight: 0.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: WRONG_HINT_WEIGHT,
        invalid_message_deliveries_decay: 0.9,
        ..TopicScoreParams::default()
    }
}
