//! Identities. All are UUIDs inside; a job's wire form is `video_` + 48 hex digits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
    };
}

uuid_id!(
    /// An org, a project or a user; quota and fair share hang on it.
    AccountId
);
uuid_id!(
    /// The unit that an agent leases.
    TaskId
);
uuid_id!(
    /// An agent, stable over restarts; the scheduler gives it for the agent's name.
    AgentId
);
uuid_id!(
    /// One life of an agent process, a UUIDv7 made at its start.
    BootId
);

/// What a user asked for: one film.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobId(pub Uuid);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a video id is 'video_' and 48 lower-case hex digits")]
pub struct BadJobId;

/// Hex digits of the check behind the UUID in a wire id.
const CHECK_DIGITS: usize = 16;

impl JobId {
    /// Sixteen digits that tell a mistyped id from a foreign one before any look-up.
    fn check_digits(uuid: Uuid) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("dailies job id");
        hasher.update(uuid.as_bytes());
        hasher.finalize().to_hex()[..CHECK_DIGITS].to_string()
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "video_{}{}", self.0.simple(), Self::check_digits(self.0))
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for JobId {
    type Err = BadJobId;

    fn from_str(text: &str) -> Result<Self, BadJobId> {
        let digits = text.strip_prefix("video_").ok_or(BadJobId)?;
        let lower_hex = digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if digits.len() != 32 + CHECK_DIGITS || !lower_hex {
            return Err(BadJobId);
        }
        let (uuid, check) = digits.split_at(32);
        let uuid = Uuid::try_parse(uuid).map_err(|_| BadJobId)?;
        if Self::check_digits(uuid) != check {
            return Err(BadJobId);
        }
        Ok(Self(uuid))
    }
}

impl TryFrom<String> for JobId {
    type Error = BadJobId;

    fn try_from(text: String) -> Result<Self, BadJobId> {
        text.parse()
    }
}

impl From<JobId> for String {
    fn from(id: JobId) -> Self {
        id.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_id_has_48_hex_digits_and_reads_back() {
        let id = JobId(Uuid::from_u128(7));
        let text = id.to_string();
        assert_eq!(text.len(), "video_".len() + 48);
        assert_eq!(text.parse(), Ok(id));
    }

    #[test]
    fn one_changed_digit_is_refused() {
        let text = JobId(Uuid::from_u128(7)).to_string();
        assert_eq!(text.replace("0007", "0008").parse::<JobId>(), Err(BadJobId));
        assert_eq!("video_12".parse::<JobId>(), Err(BadJobId));
    }
}
