//! The bytes of a message, as a queue keeps it in its file and as nodes send it to each other.

use super::Message;
use super::rest::{Rest, length, put};

/// The first byte: what these bytes are. A later form has another number.
const FORM: u8 = 1;

impl Message {
    /// As bytes. `reply_to` is not among them: what is kept or sent on has another way back.
    pub fn to_bytes(&self) -> Vec<u8> {
        let topic = self.topic.as_deref().unwrap_or_default();
        let content_type = self.content_type.as_deref().unwrap_or_default();
        let mut bytes = Vec::with_capacity(self.data.len() + 256);
        bytes.push(FORM);
        put(&mut bytes, topic.as_bytes());
        bytes.push(u8::from(self.content_type.is_some()));
        put(&mut bytes, content_type.as_bytes());
        bytes.extend(length(self.metadata.len()));
        for (key, value) in &self.metadata {
            put(&mut bytes, key.as_bytes());
            put(&mut bytes, value.as_bytes());
        }
        put(&mut bytes, &self.data);
        bytes
    }

    /// The message; `None`: these bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut rest = Rest(bytes);
        if rest.take(1)? != [FORM] {
            return None;
        }
        let topic = rest.text()?;
        let has_type = rest.take(1)? == [1];
        let content_type = rest.text()?;
        let n_pairs = rest.length()?;
        let mut metadata = Vec::new();
        for _ in 0..n_pairs {
            metadata.push((rest.text()?, rest.text()?));
        }
        let n_bytes = rest.length()?;
        let data = rest.take(n_bytes)?.to_vec();
        rest.0.is_empty().then_some(Self {
            topic: Some(topic),
            content_type: has_type.then_some(content_type),
            data,
            metadata,
            reply_to: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> Message {
        Message {
            topic: Some("orders.new".to_owned()),
            content_type: Some("text/plain".to_owned()),
            data: vec![0, 255, 10, 13],
            metadata: vec![("a".to_owned(), "é".to_owned()); 2],
            reply_to: None,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let empty = Message {
            topic: Some(String::new()),
            ..Message::default()
        };
        for message in [message(), empty] {
            assert_eq!(Message::from_bytes(&message.to_bytes()), Some(message));
        }
    }

    #[test]
    fn bytes_that_are_cut_or_follow_are_no_message() {
        let bytes = message().to_bytes();
        for n in 0..bytes.len() {
            assert_eq!(Message::from_bytes(&bytes[..n]), None, "{n}");
        }
        assert_eq!(Message::from_bytes(&[bytes, vec![0]].concat()), None);
    }

    #[test]
    fn form_1_stays_as_it_is() {
        let hex: String = message()
            .to_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let expected = "010a0000006f72646572732e6e6577010a000000746578742f706c61696e02000000\
                        010000006102000000c3a9010000006102000000c3a90400000000ff0a0d";
        assert_eq!(hex, expected);
    }
}
