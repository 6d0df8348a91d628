//! How one invocation ended: the closed list of codes that clients, metrics and logs share.
//!
//! Not the reason in words: that goes to the component's log, never to the client.

/// The end of one invocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Outcome {
    /// The guest answered, and its answer was delivered whole.
    Ok,
    /// The client went away before the end.
    Cancelled,
    /// No room: concurrency, queue or instance slots are used up.
    Overloaded,
    /// A memory growth was denied, and the guest did not survive it.
    MemoryLimit,
    /// The guest ran longer than `epoch_timeout_ms`.
    EpochTimeout,
    /// The invocation took longer than `wall_timeout_ms`.
    WallTimeout,
    /// The guest trapped.
    Trap,
    /// The guest called `exit` before it answered.
    Exit,
    /// The guest returned without an answer.
    NoResponse,
    /// The guest answered with an error code instead of a response.
    GuestError,
    /// The guest's answer cannot be sent (an informational status, say).
    BadResponse,
    /// The request has no usable authority or path.
    BadRequest,
    /// The request's body is larger than `max_request_bytes`.
    RequestTooLarge,
    /// The client sent nothing more of the request's body for too long.
    RequestTimeout,
    /// The answer's body is larger than `max_response_bytes`.
    ResponseTooLarge,
    /// No instance could be made, for another reason than a limit.
    StartFailed,
    /// The replica was ended from outside: this node may not run it any longer.
    Stopped,
}

impl Outcome {
    /// Whether the guest failed, and nobody else.
    pub(crate) const fn is_guests_own(self) -> bool {
        matches!(
            self,
            Self::MemoryLimit
                | Self::EpochTimeout
                | Self::Trap
                | Self::Exit
                | Self::NoResponse
                | Self::GuestError
                | Self::BadResponse
        )
    }

    /// Every outcome, in the order of its discriminant.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::Cancelled,
        Self::Overloaded,
        Self::MemoryLimit,
        Self::EpochTimeout,
        Self::WallTimeout,
        Self::Trap,
        Self::Exit,
        Self::NoResponse,
        Self::GuestError,
        Self::BadResponse,
        Self::BadRequest,
        Self::RequestTooLarge,
        Self::RequestTimeout,
        Self::ResponseTooLarge,
        Self::StartFailed,
        Self::Stopped,
    ];

    /// The stable code: a metric label, and the `realm-error` header of an error answer.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Cancelled => "cancelled",
            Self::Overloaded => "overloaded",
            Self::MemoryLimit => "memory-limit",
            Self::EpochTimeout => "epoch-timeout",
            Self::WallTimeout => "wall-timeout",
            Self::Trap => "trap",
            Self::Exit => "exit",
            Self::NoResponse => "no-response",
            Self::GuestError => "guest-error",
            Self::BadResponse => "bad-response",
            Self::BadRequest => "bad-request",
            Self::RequestTooLarge => "request-too-large",
            Self::RequestTimeout => "request-timeout",
            Self::ResponseTooLarge => "response-too-large",
            Self::StartFailed => "start-failed",
            Self::Stopped => "stopped",
        }
    }

    /// The HTTP status of an error answer.
    pub const fn status(self) -> u16 {
        match self {
            Self::Ok => 200,
            Self::BadRequest => 400,
            Self::RequestTimeout => 408,
            Self::RequestTooLarge => 413,
            // nginx's word for "the client closed the request": nobody sees it but the metrics.
            Self::Cancelled => 499,
            Self::MemoryLimit
            | Self::Trap
            | Self::Exit
            | Self::NoResponse
            | Self::GuestError
            | Self::StartFailed => 500,
            Self::BadResponse | Self::ResponseTooLarge => 502,
            Self::Overloaded | Self::Stopped => 503,
            Self::EpochTimeout | Self::WallTimeout => 504,
        }
    }

    /// What a client may read: no detail of the guest.
    const fn message(self) -> &'static str {
        match self {
            Self::Ok => "answered",
            Self::Cancelled => "the client went away",
            Self::Overloaded => "the component has no room for this request, try again",
            Self::MemoryLimit => "the component ran out of the memory it may use",
            Self::EpochTimeout => "the component ran longer than it may",
            Self::WallTimeout => "the component took longer than it may",
            Self::Trap => "the component failed",
            Self::Exit => "the component ended before it answered",
            Self::NoResponse => "the component gave no answer",
            Self::GuestError => "the component answered with an error",
            Self::BadResponse => "the component's answer cannot be sent",
            Self::BadRequest => "the request has no usable host or path",
            Self::RequestTooLarge => "the request body is larger than the component takes",
            Self::RequestTimeout => "the request body did not arrive in time",
            Self::ResponseTooLarge => "the component's answer is larger than it may be",
            Self::StartFailed => "the component could not be started",
            Self::Stopped => "this node may not run the component any longer, try again",
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// A call that got no response head.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// HTTP status.
    pub status: u16,
    /// Stable code: [`Outcome::code`].
    pub code: &'static str,
    /// What a client may read.
    pub message: String,
    /// Seconds after which another try makes sense.
    pub retry_after_s: Option<u32>,
}

impl From<Outcome> for CallError {
    fn from(outcome: Outcome) -> Self {
        Self {
            status: outcome.status(),
            code: outcome.code(),
            message: outcome.message().to_owned(),
            retry_after_s: matches!(outcome, Outcome::Overloaded | Outcome::Stopped).then_some(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_found_by_its_byte() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_byte(outcome as u8), Some(outcome));
        }
        assert_eq!(Outcome::from_byte(200), None);
    }
}
