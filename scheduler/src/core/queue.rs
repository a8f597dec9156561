//! Which task comes first: aged ones within their share, then bands, then fair shares, then the order inside an account.
//!
//! A tree for each band: org over project over user, a child with the smaller usage by weight first,
//! the one with the older work where they are equal. Only accounts with eligible work are in it.
//! Usage is a [`Decayed`] sum of device time by band factor, charged on every level.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{AccountId, TaskId, task::TaskKind};

use super::{
    costs::Size,
    decay::{Decayed, Score},
    limits::AGED_LOOKED_AT,
    rows::{Band, JobState},
};

/// Place of an eligible task among those of its account: the smallest is served first.
///
/// Assemble first (it ends a job), then tasks of jobs that have begun, then by rank, then submission order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    lane: Lane,
    /// Smaller is sooner.
    rank: i32,
    job_seq: i64,
    index: u32,
    pub task: TaskId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    Assemble,
    Begun,
    Waiting,
}

impl Place {
    pub fn new(
        kind: TaskKind,
        job: JobState,
        rank: i32,
        job_seq: i64,
        index: u32,
        task: TaskId,
    ) -> Self {
        let lane = match (kind, job) {
            (TaskKind::Assemble, _) => Lane::Assemble,
            (TaskKind::Render, JobState::Waiting) => Lane::Waiting,
            (TaskKind::Render, _) => Lane::Begun,
        };
        Self {
            lane,
            rank,
            job_seq,
            index,
            task,
        }
    }

    /// Rank and number of its job, if that has not begun.
    pub fn waits_since(&self) -> Option<(i32, i64)> {
        (self.lane == Lane::Waiting).then_some((self.rank, self.job_seq))
    }
}

/// Tasks of one class are alike for every test of what a node can do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Assemble,
    Render {
        weights: String,
        devices: u32,
        size: Size,
    },
}

/// Where a task stands: all that is needed to enter it and to take it out again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub account: AccountId,
    pub band: Band,
    pub class: Class,
    pub place: Place,
    /// From when it counts as aged.
    pub aged_at_ms: i64,
}

/// What is found out about a task that the queue proposes.
pub enum Verdict {
    Take,
    /// This task does not fit, one of its class may.
    Next,
    /// None of its class fits.
    SkipClass,
    /// Neither this task nor a later one of its account may start now.
    SkipAccount,
}

/// Eligible tasks in the order of service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Queue {
    bands: [Tree; 3],
    /// By the instant from which they count as aged.
    aged: BTreeSet<(i64, Place)>,
    classes: BTreeMap<Class, u64>,
    accounts: BTreeMap<AccountId, Share>,
    lens: [usize; 3],
    /// Eligible tasks of jobs that wait behind those here.
    packed: [u64; 3],
}

/// An account in the tree of accounts.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Share {
    parent: Option<AccountId>,
    weight: u32,
    usage: Decayed,
}

type Tree = BTreeMap<Option<AccountId>, Node>;
/// Order of a child: usage by weight, then its oldest work.
type Key = (Score, i64);

#[derive(Clone, Debug, Default, PartialEq)]
struct Node {
    own: BTreeMap<Class, BTreeSet<Place>>,
    children: BTreeSet<(Key, AccountId)>,
    /// Oldest work of each child.
    oldest: BTreeSet<(i64, AccountId)>,
    /// Its place in the sets of its parent.
    key: Option<Key>,
}

impl Node {
    fn own_seq(&self) -> Option<i64> {
        let first = self.own.values().filter_map(|places| places.first());
        first.map(|place| place.job_seq).min()
    }

    fn oldest_seq(&self) -> Option<i64> {
        let own = self.own_seq();
        let below = self.oldest.first().map(|(seq, _)| *seq);
        [own, below].into_iter().flatten().min()
    }
}

impl Queue {
    pub fn add_account(&mut self, id: AccountId, parent: Option<AccountId>, weight: u32) {
        let usage = self.usage(id);
        self.accounts.insert(
            id,
            Share {
                parent,
                weight,
                usage,
            },
        );
        self.refresh_bands(id);
    }

    pub fn usage(&self, id: AccountId) -> Decayed {
        self.accounts
            .get(&id)
            .map_or_else(Decayed::default, |share| share.usage)
    }

    pub fn set_usage(&mut self, id: AccountId, usage: Decayed) {
        if let Some(share) = self.accounts.get_mut(&id) {
            share.usage = usage;
            self.refresh_bands(id);
        }
    }

    /// False when it was there already.
    pub fn insert(&mut self, entry: Entry) -> bool {
        let node = self.bands[entry.band as usize]
            .entry(Some(entry.account))
            .or_default();
        if node
            .own
            .entry(entry.class.clone())
            .or_default()
            .insert(entry.place)
        {
            self.lens[entry.band as usize] += 1;
            *self.classes.entry(entry.class).or_default() += 1;
            self.aged.insert((entry.aged_at_ms, entry.place));
            self.refresh(entry.band, entry.account);
            return true;
        }
        false
    }

    /// False when it was not there.
    pub fn remove(&mut self, entry: &Entry) -> bool {
        let Some(node) = self.bands[entry.band as usize].get_mut(&Some(entry.account)) else {
            return false;
        };
        let Some(places) = node.own.get_mut(&entry.class) else {
            return false;
        };
        if !places.remove(&entry.place) {
            return false;
        }
        if places.is_empty() {
            node.own.remove(&entry.class);
        }
        self.lens[entry.band as usize] -= 1;
        self.aged.remove(&(entry.aged_at_ms, entry.place));
        let count = self
            .classes
            .get_mut(&entry.class)
            .expect("its class was counted");
        *count -= 1;
        if *count == 0 {
            self.classes.remove(&entry.class);
        }
        self.refresh(entry.band, entry.account);
        true
    }

    fn refresh_bands(&mut self, account: AccountId) {
        for band in Band::ALL {
            self.refresh(band, account);
        }
    }

    /// Moves an account, and those above it, to where usage and work put them now.
    fn refresh(&mut self, band: Band, account: AccountId) {
        let mut next = Some(account);
        while let Some(id) = next {
            let share = self.accounts.get(&id).copied();
            let (parent, weight, usage) = share.map_or((None, 1, Decayed::default()), |s| {
                (s.parent, s.weight, s.usage)
            });
            let tree = &mut self.bands[band as usize];
            let Some(node) = tree.get_mut(&Some(id)) else {
                return;
            };
            let (was, now) = (
                node.key,
                node.oldest_seq().map(|seq| (usage.over(weight), seq)),
            );
            node.key = now;
            if now.is_none() {
                tree.remove(&Some(id));
            }
            if was != now {
                move_child(tree.entry(parent).or_default(), id, was, now);
            }
            if parent.is_none() && tree.get(&None).is_some_and(|root| root.children.is_empty()) {
                tree.remove(&None);
            }
            next = parent;
        }
    }

    /// Offers tasks in order of service until one is taken: first those aged at `aged_by`, if given, then the bands.
    pub fn find(
        &self,
        aged_by: Option<i64>,
        bands: [Band; 3],
        mut ask: impl FnMut(&Place) -> Verdict,
    ) -> Option<Found> {
        let aged = aged_by.and_then(|now| {
            self.aged
                .iter()
                .take_while(|(at, _)| *at <= now)
                .take(AGED_LOOKED_AT)
                .find(|(_, place)| matches!(ask(place), Verdict::Take))
        });
        if let Some((_, place)) = aged {
            return Some(Found {
                task: place.task,
                aged: true,
            });
        }
        let mut dead = BTreeSet::new();
        let found = bands
            .into_iter()
            .find_map(|band| self.walk(band, None, &mut dead, &mut ask));
        found.map(|task| Found { task, aged: false })
    }

    fn walk(
        &self,
        band: Band,
        at: Option<AccountId>,
        dead: &mut BTreeSet<Class>,
        ask: &mut impl FnMut(&Place) -> Verdict,
    ) -> Option<TaskId> {
        let node = self.bands[band as usize].get(&at)?;
        // Work of a project itself and that of its users: the older is served first.
        let own_first = match (node.own_seq(), node.oldest.first()) {
            (Some(own), Some((below, _))) => own < *below,
            (own, _) => own.is_some(),
        };
        let below = |dead: &mut BTreeSet<Class>, ask: &mut _| {
            let mut children = node.children.iter();
            children.find_map(|(_, child)| self.walk(band, Some(*child), dead, ask))
        };
        match own_first {
            true => own(node, dead, ask).or_else(|| below(dead, ask)),
            false => below(dead, ask).or_else(|| own(node, dead, ask)),
        }
    }

    /// The first `count` tasks of an account and of those below it, in order of service.
    pub fn first_of(&self, account: AccountId, count: usize) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        for band in Band::ALL {
            self.walk(band, Some(account), &mut BTreeSet::new(), &mut |place| {
                tasks.push(place.task);
                match tasks.len() < count {
                    true => Verdict::Next,
                    false => Verdict::Take,
                }
            });
            if tasks.len() >= count {
                break;
            }
        }
        tasks
    }

    /// The first `count` tasks of a band in order of service.
    pub fn first(&self, band: Band, count: usize) -> Vec<TaskId> {
        let mut tasks = Vec::new();
        self.walk(band, None, &mut BTreeSet::new(), &mut |place| {
            tasks.push(place.task);
            match tasks.len() < count {
                true => Verdict::Next,
                false => Verdict::Take,
            }
        });
        tasks
    }

    pub fn has(&self, band: Band) -> bool {
        !self.bands[band as usize].is_empty()
    }

    /// Eligible tasks of the account in this band before this place.
    pub fn own_ahead(&self, account: AccountId, band: Band, place: &Place) -> u64 {
        let node = self.bands[band as usize].get(&Some(account));
        node.map_or(0, |node| {
            node.own
                .values()
                .map(|places| places.range(..*place).count() as u64)
                .sum()
        })
    }

    /// Classes of eligible tasks.
    pub fn classes(&self) -> impl Iterator<Item = &Class> {
        self.classes.keys()
    }

    /// Eligible tasks, packed ones too.
    pub fn len(&self) -> usize {
        Band::ALL.into_iter().map(|band| self.len_of(band)).sum()
    }

    pub fn len_of(&self, band: Band) -> usize {
        self.lens[band as usize] + self.packed[band as usize] as usize
    }

    pub fn note_packed(&mut self, band: Band, tasks: u64) {
        self.packed[band as usize] = tasks;
    }
}

/// A task that was taken, and in which lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub task: TaskId,
    pub aged: bool,
}

fn move_child(parent: &mut Node, id: AccountId, was: Option<Key>, now: Option<Key>) {
    if let Some(key) = was {
        parent.children.remove(&(key, id));
        parent.oldest.remove(&(key.1, id));
    }
    if let Some(key) = now {
        parent.children.insert((key, id));
        parent.oldest.insert((key.1, id));
    }
}

/// An account's own tasks, all classes in one order.
fn own(
    node: &Node,
    dead: &mut BTreeSet<Class>,
    ask: &mut impl FnMut(&Place) -> Verdict,
) -> Option<TaskId> {
    let mut lines: Vec<_> = node
        .own
        .iter()
        .filter(|(class, _)| !dead.contains(class))
        .map(|(class, places)| (class, places.iter().peekable()))
        .collect();
    loop {
        let heads = lines
            .iter_mut()
            .enumerate()
            .filter_map(|(at, (_, line))| line.peek().map(|place| (**place, at)));
        let (place, at) = heads.min()?;
        match ask(&place) {
            Verdict::Take => return Some(place.task),
            Verdict::SkipAccount => return None,
            Verdict::Next => drop(lines[at].1.next()),
            Verdict::SkipClass => {
                let (class, _) = lines.swap_remove(at);
                dead.insert(class.clone());
            }
        }
    }
}
