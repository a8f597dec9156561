//! Xid events that the scheduler has not heard of yet: told with every heartbeat until one is answered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::agent::DeviceSample;

/// The GPU has fallen off the bus.
pub const OFF_THE_BUS: u64 = 79;
/// Events that are kept while the scheduler is away; the oldest say most.
const KEPT_MAX: usize = 256;

/// Shared by the watcher, which notes, and the heartbeat, which tells.
#[derive(Clone, Debug, Default)]
pub struct XidLog(Arc<Mutex<Vec<(u32, u64)>>>);

impl XidLog {
    /// An event of the agent's device `index`.
    pub fn note(&self, index: u32, xid: u64) {
        let mut events = self.events();
        if events.len() < KEPT_MAX {
            events.push((index, xid));
        }
    }

    /// Adds what is not told yet to the readings, also for a GPU that gives no reading any more.
    /// Answers how many events that are.
    pub fn add_to(&self, samples: &mut Vec<DeviceSample>) -> usize {
        let events = self.events();
        for (index, xid) in events.iter() {
            match samples.iter_mut().find(|sample| sample.index == *index) {
                Some(sample) => sample.xids.push(*xid),
                None => samples.push(DeviceSample {
                    index: *index,
                    xids: vec![*xid],
                    ..DeviceSample::default()
                }),
            }
        }
        events.len()
    }

    /// The first `count` events were heard.
    pub fn heard(&self, count: usize) {
        self.events().drain(..count);
    }

    fn events(&self) -> MutexGuard<'_, Vec<(u32, u64)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_until_they_are_heard_also_of_a_gpu_without_readings() {
        let log = XidLog::default();
        log.note(1, 31);
        log.note(2, 79);
        let told = || {
            let mut samples = vec![DeviceSample {
                index: 1,
                ..DeviceSample::default()
            }];
            let count = log.add_to(&mut samples);
            let xids: Vec<_> = samples.into_iter().map(|s| (s.index, s.xids)).collect();
            (count, xids)
        };
        let both = (2, vec![(1, vec![31]), (2, vec![79])]);
        assert_eq!((told(), told()), (both.clone(), both));
        log.note(1, 94);
        log.heard(2);
        assert_eq!(told(), (1, vec![(1, vec![94])]));
    }

    #[test]
    fn a_flood_while_the_scheduler_is_away_is_cut() {
        let log = XidLog::default();
        (0..1_000).for_each(|_| log.note(1, 13));
        assert_eq!(log.add_to(&mut Vec::new()), KEPT_MAX);
    }
}
