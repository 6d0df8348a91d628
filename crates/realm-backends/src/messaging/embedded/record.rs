//! The bytes of a message in the file.

use realm_model::cloud::Message;

/// The first byte: what these bytes are. A later form has another number.
const FORM: u8 = 1;

/// A message as bytes. `reply_to` is not among them: what is kept waits for no reply.
pub(super) fn write(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(message.data.len() + 256);
    bytes.push(FORM);
    put(
        &mut bytes,
        message.topic.as_deref().unwrap_or_default().as_bytes(),
    );
    bytes.push(u8::from(message.content_type.is_some()));
    put(
        &mut bytes,
        message
            .content_type
            .as_deref()
            .unwrap_or_default()
            .as_bytes(),
    );
    bytes.extend(length(message.metadata.len()));
    for (key, value) in &message.metadata {
        put(&mut bytes, key.as_bytes());
        put(&mut bytes, value.as_bytes());
    }
    put(&mut bytes, &message.data);
    bytes
}

/// The message; `None`: these bytes are none.
pub(super) fn read(bytes: &[u8]) -> Option<Message> {
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
    rest.0.is_empty().then_some(Message {
        topic: Some(topic),
        content_type: has_type.then_some(content_type),
        data,
        metadata,
        reply_to: None,
    })
}

fn length(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn put(bytes: &mut Vec<u8>, piece: &[u8]) {
    bytes.extend(length(piece.len()));
    bytes.extend(piece);
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (piece, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(piece)
    }

    fn length(&mut self) -> Option<usize> {
        let bytes = self.take(4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    }

    fn text(&mut self) -> Option<String> {
        let n = self.length()?;
        String::from_utf8(self.take(n)?.to_vec()).ok()
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
            assert_eq!(read(&write(&message)), Some(message));
        }
    }

    #[test]
    fn bytes_that_are_cut_or_follow_are_no_message() {
        let bytes = write(&message());
        for n in 0..bytes.len() {
            assert_eq!(read(&bytes[..n]), None, "{n}");
        }
        assert_eq!(read(&[bytes, vec![0]].concat()), None);
    }

    #[test]
    fn form_1_stays_as_it_is() {
        let hex: String = write(&message())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let expected = "010a0000006f72646572732e6e6577010a000000746578742f706c61696e02000000\
                        010000006102000000c3a9010000006102000000c3a90400000000ff0a0d";
        assert_eq!(hex, expected);
    }
}
