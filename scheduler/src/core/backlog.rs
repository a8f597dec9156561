//! Jobs that wait behind others of their kind, packed: the queue holds only the first of each line.
//!
//! A line is one account, band, rank, kind of shots (weights, size, devices) and time that they may start in; its jobs
//! are alike in all that the order of service looks at but their age, so the first stands for all. When it begins or
//! ends, the next one is unpacked and takes its place. A line whose jobs may not start yet is asleep: none of its tasks
//! counts as eligible until it wakes. That keeps the queue, a copy of the farm and a restart small, however many
//! jobs wait, and a night's opening short.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use schemas::{AccountId, GpuMicros, JobId};

use super::{
    limits::PREEMPT_LOOKED_AT,
    packed::{CLASSES_MAX, Head, Line, Wishes},
    rows::Band,
};

/// Jobs in one chunk. Copies of the farm share chunks until one of them changes.
const CHUNK: usize = 128;
/// Parts of the index by id, for the same reason.
const PARTS: usize = 256;

/// Unpacked jobs that a line has at least, if it has so many: as many as are looked at at once when
/// devices are taken for them.
const HEADS: u32 = PREEMPT_LOOKED_AT as u32;

/// Number of a line while it is there.
pub(super) type LineId = u32;

#[derive(Clone, Debug)]
pub(super) struct Backlog {
    numbers: BTreeMap<Line, LineId>,
    lines: BTreeMap<LineId, Row>,
    last: LineId,
    /// Where each packed job is.
    index: Vec<Arc<BTreeMap<JobId, (LineId, i64)>>>,
    /// Eligible tasks of each band.
    ready: [u64; 3],
    /// Devices that eligible tasks wait for, by account.
    devices: BTreeMap<AccountId, u64>,
}

#[derive(Clone, Debug)]
struct Row {
    line: Line,
    /// Its unpacked jobs that wait.
    heads: u32,
    /// Its jobs could start now.
    is_awake: bool,
    chunks: VecDeque<Arc<Chunk>>,
}

/// Some jobs of a line in the order of their submission.
#[derive(Clone, Debug, Default)]
struct Chunk {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    total: Sum,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    seq: i64,
    estimate: GpuMicros,
    /// Where its bytes end.
    end: u32,
    ready: u16,
    blocked: u16,
}

/// Packed jobs in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    pub jobs: u64,
    /// Tasks that need no others.
    pub ready: u64,
    /// Tasks that wait for those.
    pub blocked: u64,
    /// Expected device time of all of them.
    pub estimate_us: i64,
}

impl Sum {
    fn add(&mut self, entry: &Entry) {
        self.jobs += 1;
        self.ready += u64::from(entry.ready);
        self.blocked += u64::from(entry.blocked);
        self.estimate_us = self.estimate_us.saturating_add(entry.estimate.0);
    }

    fn take(&mut self, entry: &Entry) {
        self.jobs -= 1;
        self.ready -= u64::from(entry.ready);
        self.blocked -= u64::from(entry.blocked);
        self.estimate_us -= entry.estimate.0;
    }

    pub fn and(self, other: Self) -> Self {
        Self {
            jobs: self.jobs + other.jobs,
            ready: self.ready + other.ready,
            blocked: self.blocked + other.blocked,
            estimate_us: self.estimate_us.saturating_add(other.estimate_us),
        }
    }
}

impl Default for Backlog {
    fn default() -> Self {
        Self {
            numbers: BTreeMap::new(),
            lines: BTreeMap::new(),
            last: 0,
            index: vec![Arc::default(); PARTS],
            ready: [0; 3],
            devices: BTreeMap::new(),
        }
    }
}

impl Backlog {
    pub fn find(&self, line: &Line) -> Option<LineId> {
        self.numbers.get(line).copied()
    }

    /// A new line, asleep.
    pub fn add(&mut self, line: Line) -> LineId {
        self.last += 1;
        self.numbers.insert(line.clone(), self.last);
        let row = Row {
            line,
            heads: 0,
            is_awake: false,
            chunks: VecDeque::new(),
        };
        self.lines.insert(self.last, row);
        self.last
    }

    pub fn line(&self, id: LineId) -> Option<&Line> {
        self.lines.get(&id).map(|row| &row.line)
    }

    /// The jobs of a line may start from now on, or no more.
    pub fn wake(&mut self, id: LineId, is_awake: bool) {
        let row = self.row(id);
        if std::mem::replace(&mut row.is_awake, is_awake) != is_awake {
            let ready = row.before(i64::MAX).ready as i64;
            self.count(id, if is_awake { ready } else { -ready });
        }
    }

    /// So many tasks of a line begin to be eligible; fewer than none end to be so.
    fn count(&mut self, id: LineId, by: i64) {
        let line = &self.lines[&id].line;
        let devices = self.devices.entry(line.account).or_default();
        let ready = &mut self.ready[line.band as usize];
        let counted = "only what was counted is taken off";
        *ready = ready.checked_add_signed(by).expect(counted);
        *devices = devices
            .checked_add_signed(by * i64::from(line.devices))
            .expect(counted);
    }

    /// Puts a job into its line: nearly always at the end.
    pub fn push(&mut self, id: LineId, head: &Head, bytes: &[u8]) {
        let row = self.row(id);
        let (is_awake, chunks) = (row.is_awake, &mut row.chunks);
        let mut at = chunks.partition_point(|chunk| chunk.last() < head.seq);
        if at == chunks.len() {
            if at == 0 || chunks[at - 1].entries.len() >= CHUNK {
                chunks.push_back(Arc::default());
            }
            at = chunks.len() - 1;
        }
        Arc::make_mut(&mut chunks[at]).insert(head, bytes);
        self.index_of(head.job).insert(head.job, (id, head.seq));
        if is_awake {
            self.count(id, head.ready.into());
        }
    }

    /// The bytes of the first job of a line that lacks unpacked ones.
    pub fn pop_if_due(&mut self, id: LineId) -> Option<Vec<u8>> {
        let row = self.lines.get(&id)?;
        if row.heads >= HEADS {
            return None;
        }
        let seq = row.chunks.front()?.entries[0].seq;
        self.take_at(id, seq)
    }

    /// The bytes of any packed job.
    pub fn take(&mut self, job: JobId) -> Option<Vec<u8>> {
        let (id, seq) = *self.place(job)?;
        self.take_at(id, seq)
    }

    fn take_at(&mut self, id: LineId, seq: i64) -> Option<Vec<u8>> {
        let row = self.row(id);
        let is_awake = row.is_awake;
        let at = row.chunks.partition_point(|chunk| chunk.last() < seq);
        let chunk = Arc::make_mut(row.chunks.get_mut(at)?);
        let (entry, bytes) = chunk.remove(seq)?;
        if chunk.entries.is_empty() {
            row.chunks.remove(at);
        }
        if is_awake {
            self.count(id, -i64::from(entry.ready));
        }
        Some(bytes)
    }

    /// The job that these bytes are is packed no more.
    pub fn forget(&mut self, job: JobId) {
        self.index_of(job).remove(&job);
    }

    /// An unpacked job of the line begins (1) or ends (-1) to wait.
    pub fn count_head(&mut self, id: LineId, by: i32) {
        let row = self.row(id);
        row.heads = row
            .heads
            .checked_add_signed(by)
            .expect("only what was counted is taken off");
        if row.heads == 0 && row.chunks.is_empty() {
            let row = self.lines.remove(&id).expect("it was just there");
            self.numbers.remove(&row.line);
        }
    }

    /// More of its jobs are unpacked than must be.
    pub fn is_overfull(&self, id: LineId) -> bool {
        self.lines.get(&id).is_some_and(|row| row.heads > HEADS)
    }

    /// Whether a new job of the line would wait behind an unpacked one.
    pub fn has_heads(&self, id: LineId) -> bool {
        self.lines.get(&id).is_some_and(|row| row.heads >= HEADS)
    }

    pub fn bytes(&self, job: JobId) -> Option<&[u8]> {
        let (id, seq) = self.place(job)?;
        let row = self.lines.get(id)?;
        let at = row.chunks.partition_point(|chunk| chunk.last() < *seq);
        row.chunks.get(at)?.find(*seq)
    }

    /// All jobs, line by line.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        let chunks = self.lines.values().flat_map(|row| &row.chunks);
        chunks.flat_map(|chunk| (0..chunk.entries.len()).map(|at| chunk.bytes_at(at)))
    }

    /// Accounts with packed jobs, and the bytes of these.
    pub fn by_account(&self) -> impl Iterator<Item = (AccountId, &[u8])> {
        self.lines.values().flat_map(|row| {
            let chunks = row.chunks.iter();
            let jobs =
                chunks.flat_map(|chunk| (0..chunk.entries.len()).map(|at| chunk.bytes_at(at)));
            jobs.map(|bytes| (row.line.account, bytes))
        })
    }

    /// Jobs behind this place, line by line, with their places.
    pub fn behind(
        &self,
        (line, seq): (LineId, i64),
    ) -> impl Iterator<Item = ((LineId, i64), &[u8])> {
        self.lines.range(line..).flat_map(move |(id, row)| {
            let from = if *id == line { seq } else { i64::MIN };
            let chunks = row.chunks.partition_point(|chunk| chunk.last() <= from);
            let chunks = row.chunks.range(chunks..);
            let jobs = chunks.flat_map(|chunk| {
                let jobs = chunk.entries.iter().enumerate();
                jobs.map(|(at, entry)| (entry.seq, chunk.bytes_at(at)))
            });
            jobs.filter(move |(seq, _)| *seq > from)
                .map(|(seq, bytes)| ((*id, seq), bytes))
        })
    }

    /// Packed jobs of each line.
    pub fn sums(&self) -> impl Iterator<Item = (LineId, Sum)> {
        let sum = |(id, row): (&LineId, &Row)| (*id, row.before(i64::MAX));
        self.lines.iter().map(sum)
    }

    pub fn line_ids(&self) -> Vec<LineId> {
        self.lines.keys().copied().collect()
    }

    /// Packed jobs that are older than the one with this number.
    pub fn before(&self, seq: i64) -> Sum {
        let rows = self.lines.values().map(|row| row.before(seq));
        rows.fold(Sum::default(), Sum::and)
    }

    /// Eligible tasks of an account that are served before a job of this rank and number, in one band.
    pub fn ahead(&self, account: AccountId, band: Band, rank: i32, seq: i64) -> u64 {
        let first = Line {
            account,
            band,
            classes: [0; CLASSES_MAX],
            rank: i32::MIN,
            devices: 0,
            wishes: Wishes::default(),
        };
        let own = self.numbers.range(first..);
        let own = own.take_while(|(line, _)| (line.account, line.band) == (account, band));
        let rows = own.map(|(_, id)| &self.lines[id]);
        rows.filter(|row| row.is_awake)
            .map(|row| match row.line.rank.cmp(&rank) {
                Ordering::Less => row.before(i64::MAX).ready,
                Ordering::Equal => row.before(seq).ready,
                Ordering::Greater => 0,
            })
            .sum()
    }

    /// Eligible tasks of packed jobs.
    pub fn ready(&self, band: Band) -> u64 {
        self.ready[band as usize]
    }

    /// Devices that eligible tasks of an account itself wait for.
    pub fn devices(&self, account: AccountId) -> u64 {
        self.devices.get(&account).copied().unwrap_or(0)
    }

    /// Accounts of which packed jobs wait or did so.
    pub fn accounts(&self) -> Vec<AccountId> {
        self.devices.keys().copied().collect()
    }

    pub fn holds(&self, job: JobId) -> bool {
        self.place(job).is_some()
    }

    pub fn line_of(&self, job: JobId) -> Option<LineId> {
        self.place(job).map(|(id, _)| *id)
    }

    fn place(&self, job: JobId) -> Option<&(LineId, i64)> {
        self.index[part(job)].get(&job)
    }

    fn index_of(&mut self, job: JobId) -> &mut BTreeMap<JobId, (LineId, i64)> {
        Arc::make_mut(&mut self.index[part(job)])
    }

    fn row(&mut self, id: LineId) -> &mut Row {
        self.lines
            .get_mut(&id)
            .expect("numbers of lines are of those that are there")
    }
}

/// The last byte of an id is as good as random, also where ids grow with time.
fn part(job: JobId) -> usize {
    usize::from(job.0.as_bytes()[15]) % PARTS
}

impl Row {
    fn before(&self, seq: i64) -> Sum {
        let mut sum = Sum::default();
        for chunk in &self.chunks {
            if chunk.last() < seq {
                sum = sum.and(chunk.total);
                continue;
            }
            let older = chunk.entries.iter().take_while(|entry| entry.seq < seq);
            older.for_each(|entry| sum.add(entry));
            break;
        }
        sum
    }
}

impl Chunk {
    fn insert(&mut self, head: &Head, bytes: &[u8]) {
        let at = self.entries.partition_point(|entry| entry.seq < head.seq);
        let start = self.start(at);
        self.bytes.splice(start..start, bytes.iter().copied());
        let entry = Entry {
            seq: head.seq,
            estimate: head.estimate,
            end: start as u32,
            ready: head.ready,
            blocked: head.blocked,
        };
        self.total.add(&entry);
        self.entries.insert(at, entry);
        for moved in &mut self.entries[at..] {
            moved.end += bytes.len() as u32;
        }
        if self.entries.len() == CHUNK {
            self.entries.shrink_to_fit();
            self.bytes.shrink_to_fit();
        }
    }

    fn last(&self) -> i64 {
        self.entries.last().map_or(i64::MIN, |entry| entry.seq)
    }

    fn find(&self, seq: i64) -> Option<&[u8]> {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq);
        Some(self.bytes_at(at.ok()?))
    }

    fn bytes_at(&self, at: usize) -> &[u8] {
        &self.bytes[self.start(at)..self.entries[at].end as usize]
    }

    fn start(&self, at: usize) -> usize {
        match at {
            0 => 0,
            at => self.entries[at - 1].end as usize,
        }
    }

    fn remove(&mut self, seq: i64) -> Option<(Entry, Vec<u8>)> {
        let at = self
            .entries
            .binary_search_by_key(&seq, |entry| entry.seq)
            .ok()?;
        let (start, end) = (self.start(at), self.entries[at].end as usize);
        let bytes: Vec<u8> = self.bytes.drain(start..end).collect();
        let entry = self.entries.remove(at);
        for later in &mut self.entries[at..] {
            later.end -= bytes.len() as u32;
        }
        self.total.take(&entry);
        Some((entry, bytes))
    }
}
