//! What client and workers say to each other: one message of 16 bytes each way a request. No HTTP,
//! so that next to nothing comes on top of the service time.

/// Length of every message.
pub(crate) const LENGTH: usize = 16;

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// For how long the worker is to block, in nanoseconds.
    pub(crate) service: u64,
    /// Whether the worker closes the connection afterwards.
    pub(crate) last: bool,
}

/// What a worker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Its process.
    pub(crate) pid: u32,
    /// When it began with the request, by the clock of the machine.
    pub(crate) began: u64,
}

impl Request {
    pub(crate) fn to_bytes(self) -> [u8; LENGTH] {
        join(self.service, u64::from(self.last))
    }

    pub(crate) fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let (service, last) = split(bytes);
        Self {
            service,
            last: last != 0,
        }
    }
}

impl Answer {
    pub(crate) fn to_bytes(self) -> [u8; LENGTH] {
        join(self.began, u64::from(self.pid))
    }

    pub(crate) fn from_bytes(bytes: [u8; LENGTH]) -> Self {
        let (began, pid) = split(bytes);
        Self {
            pid: pid as u32,
            began,
        }
    }
}

fn join(low: u64, high: u64) -> [u8; LENGTH] {
    (u128::from(low) | u128::from(high) << 64).to_le_bytes()
}

fn split(bytes: [u8; LENGTH]) -> (u64, u64) {
    let both = u128::from_le_bytes(bytes);
    (both as u64, (both >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_as_they_were() {
        let request = Request {
            service: 200_000_000,
            last: true,
        };
        assert_eq!(Request::from_bytes(request.to_bytes()), request);
        let answer = Answer {
            pid: u32::MAX,
            began: u64::MAX - 1,
        };
        assert_eq!(Answer::from_bytes(answer.to_bytes()), answer);
    }
}
