//! The devices of one lease: a group of one node, granted whole or not at all.

use serde::{Deserialize, Serialize};

/// Devices of the largest group.
pub const GROUP_MAX: usize = 8;

/// Indices of at most [`GROUP_MAX`] devices of one node, ascending.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<u32>", into = "Vec<u32>")]
pub struct Group {
    indices: [u32; GROUP_MAX],
    len: u8,
}

impl Group {
    pub fn one(device: u32) -> Self {
        let mut indices = [0; GROUP_MAX];
        indices[0] = device;
        Self { indices, len: 1 }
    }

    /// `None` for none, too many, or one that comes twice.
    pub fn of(mut devices: Vec<u32>) -> Option<Self> {
        devices.sort_unstable();
        let twice = devices.windows(2).any(|pair| pair[0] == pair[1]);
        if devices.is_empty() || devices.len() > GROUP_MAX || twice {
            return None;
        }
        let mut indices = [0; GROUP_MAX];
        indices[..devices.len()].copy_from_slice(&devices);
        let len = devices.len() as u8;
        Some(Self { indices, len })
    }

    pub fn devices(&self) -> &[u32] {
        &self.indices[..usize::from(self.len)]
    }

    pub fn count(&self) -> u32 {
        self.len.into()
    }

    pub fn contains(&self, device: u32) -> bool {
        self.devices().contains(&device)
    }
}

impl TryFrom<Vec<u32>> for Group {
    type Error = String;

    fn try_from(devices: Vec<u32>) -> Result<Self, String> {
        let shown = format!("{devices:?} is no group of 1 to {GROUP_MAX} devices");
        Self::of(devices).ok_or(shown)
    }
}

impl From<Group> for Vec<u32> {
    fn from(group: Group) -> Self {
        group.devices().to_vec()
    }
}

impl std::fmt::Debug for Group {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.devices().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_each_device_once_and_at_most_eight() {
        let of = |devices: &[u32]| Group::of(devices.to_vec());
        assert_eq!(of(&[3, 1]).unwrap().devices(), [1, 3]);
        assert_eq!(of(&[7]), Some(Group::one(7)));
        assert_eq!(of(&[1, 1]), None);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0, 1, 2, 3, 4, 5, 6, 7, 8]), None);
        assert!(serde_json::from_str::<Group>("[2, 2]").is_err());
    }
}
