//! The log's words on their way from the store to the socket.
//!
//! An event is encoded once, when it is committed, and travels as bytes from
//! then on: every reader sees the same ones, and a server passes on an event
//! that is newer than itself.

use bytes::Bytes;
use prost::Message;

use crate::clock::Timestamp;
use crate::pb;
use crate::pb::event::Kind;

/// Encodes an event as it is stored.
pub fn encode(sequence: u64, time: Timestamp, kind: Kind) -> Bytes {
    pb::Event {
        sequence,
        time: Some(time.to_proto()),
        kind: Some(kind),
    }
    .encode_to_vec()
    .into()
}

/// Decodes a stored event. `None`: it is damaged.
pub fn decode(bytes: &[u8]) -> Option<pb::Event> {
    pb::Event::decode(bytes).ok()
}

/// Whether a stored event is the end of its log, without decoding what it holds
/// (a result may be a megabyte).
pub fn is_finished(bytes: &[u8]) -> bool {
    const FINISHED: u32 = 25;
    let mut rest = bytes;
    while let Ok((tag, wire_type)) = prost::encoding::decode_key(&mut rest) {
        if tag >= 10 {
            return tag == FINISHED;
        }
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(wire_type, tag, &mut rest, context).is_err() {
            return false;
        }
    }
    false
}

/// Messages of streams, with the event as bytes where the generated ones have
/// it decoded. On the wire both are the same: an embedded message and a bytes
/// field have one encoding.
pub mod wire {
    use super::{Bytes, pb};

    /// `claudepool.v1.WatchTaskResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct WatchTaskResponse {
        /// An entry of the log.
        #[prost(bytes = "bytes", optional, tag = "1")]
        pub event: Option<Bytes>,
        /// Silence.
        #[prost(message, optional, tag = "2")]
        pub heartbeat: Option<pb::Heartbeat>,
    }

    /// `claudepool.v1.RunStreamResponse`.
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct RunStreamResponse {
        /// An entry of the log.
        #[prost(bytes = "bytes", optional, tag = "1")]
        pub event: Option<Bytes>,
        /// Silence.
        #[prost(message, optional, tag = "2")]
        pub heartbeat: Option<pb::Heartbeat>,
        /// The first message.
        #[prost(message, optional, tag = "3")]
        pub accepted: Option<pb::RunAccepted>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_told_without_decoding_it() {
        let end = Kind::Finished(pb::Finished::default());
        assert!(is_finished(&encode(1 << 40, Timestamp(5), end)));
        assert!(!is_finished(&encode(
            1,
            Timestamp(5),
            Kind::Queued(pb::Queued {})
        )));
        assert!(!is_finished(b""));
        assert!(!is_finished(b"\xff\xff"));
    }

    #[test]
    fn a_stored_event_reaches_the_client_as_it_was_committed() {
        let bytes = encode(7, Timestamp(5), Kind::Queued(pb::Queued {}));
        let sent = wire::WatchTaskResponse {
            event: Some(bytes.clone()),
            heartbeat: None,
        }
        .encode_to_vec();

        let received = pb::WatchTaskResponse::decode(&sent[..]).expect("same wire form");

        let Some(pb::watch_task_response::Item::Event(event)) = received.item else {
            panic!("an event was sent");
        };
        assert_eq!(Some(event), decode(&bytes));
    }
}
