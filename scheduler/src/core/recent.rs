//! The last grants: what share of them aged tasks and lower bands have had. Not stored: a new leader counts anew.

use std::collections::VecDeque;

use super::{
    limits::{AGED_PERCENT, FLOORS_PERCENT, GRANTS_COUNTED},
    queue::Queue,
    rows::Band,
};

/// The last [`GRANTS_COUNTED`] grants, the newest at the back.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    grants: VecDeque<(Band, bool)>,
}

impl Recent {
    pub fn note(&mut self, band: Band, aged: bool) {
        if self.grants.len() == GRANTS_COUNTED {
            self.grants.pop_front();
        }
        self.grants.push_back((band, aged));
    }

    /// Aged tasks may go first until they have had their share.
    pub fn aged_may_go(&self) -> bool {
        let aged = self.grants.iter().filter(|(_, aged)| *aged).count();
        aged * 100 < AGED_PERCENT * GRANTS_COUNTED
    }

    /// Bands in the order in which they are served: one below its floor first.
    pub fn order(&self, queue: &Queue) -> [Band; 3] {
        let starved = |band: &Band| {
            let had = self.grants.iter().filter(|(b, _)| b == band).count();
            let floor = FLOORS_PERCENT[*band as usize];
            self.grants.len() == GRANTS_COUNTED
                && queue.has(*band)
                && had * 100 < floor * GRANTS_COUNTED
        };
        let mut order = Band::ALL;
        order.sort_by_key(|band| !starved(band));
        order
    }
}
