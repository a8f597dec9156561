//! A job that waits and is like any new one, in a hundred bytes: in memory and in the table `waiting`.
//!
//! ```text
//! format 2 | job 16 | project 16 | given 1 | user 16? | band 1 | rank | seq | seed 8 | created_at_ms | held
//!   | window: length and name? | not_before_ms? | deadline_ms? | starts_ms? | could_start_ms? | tasks
//!   task: id 16 | shape | estimate | number of inputs | inputs
//! ```
//! `given` has a bit for each part with a question mark, the first the lowest: it is there or not.
//! `starts_ms`: from when its tasks may start by its own wish, where that is not at once.
//! Numbers are LEB128, negative ones zigzag. Everything else of the rows is what every new job has; a
//! job of which that is not true cannot be packed, so packing never loses anything.

use std::sync::Arc;

use schemas::{
    AccountId, GpuMicros, JobId, TaskId,
    task::{TaskKind, TaskSpec},
};
use uuid::Uuid;

use super::{
    rows::{Band, JobRow, ReservationRow, TaskRow, TaskState},
    shapes::{ShapeId, Shapes},
    start::{Expected, latest_start_ms},
};

/// Grows when the bytes mean something else; rows of another format are read from their own tables.
pub const FORMAT: u8 = 2;
/// What has to be in [`Head`] is found before these.
const ID: usize = 16;

/// All rows of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Whole {
    pub job: JobRow,
    /// In task order.
    pub tasks: Vec<TaskRow>,
    pub reservation: ReservationRow,
}

/// What the order of service needs of a packed job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub job: JobId,
    pub line: Line,
    pub seq: i64,
    /// Tasks that need no other, and those that wait for them.
    pub ready: u16,
    pub blocked: u16,
    pub estimate: GpuMicros,
    /// The hour was chosen for its price.
    pub is_planned: bool,
}

/// Packed jobs that are served one after the other: alike in all but their age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub account: AccountId,
    pub band: Band,
    /// Those of its shots.
    pub classes: Classes,
    pub rank: i32,
    /// Devices that each of its shots needs.
    pub devices: u32,
    pub wishes: Wishes,
}

/// What decides when a job may start, and from when it is urgent.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wishes {
    pub window: Option<Arc<str>>,
    /// Where it is later than its submission.
    pub not_before_ms: Option<i64>,
    /// From when its tasks may start by its own wish, where that is not at once.
    pub starts_ms: Option<i64>,
    pub deadline_ms: Option<i64>,
    /// Last start in time for the deadline.
    pub latest_ms: Option<i64>,
    /// What it takes with nine chances in ten; 0 without a window, where nobody asks.
    pub late_ms: i64,
}

/// Different classes of shots that one packed job may have.
pub(super) const CLASSES_MAX: usize = 3;
/// In the order of their numbers; [`ShapeId::MAX`] where there are no more.
pub(super) type Classes = [ShapeId; CLASSES_MAX];

/// The job in bytes; `None` if it is not like any new one.
pub(super) fn pack(whole: &Whole, shapes: &Shapes) -> Option<Vec<u8>> {
    let (job, held) = (&whole.job, whole.reservation.held);
    let mut bytes = vec![FORMAT];
    bytes.extend(job.id.0.as_bytes());
    bytes.extend(job.project.0.as_bytes());
    let starts_ms = starts_ms(whole);
    bytes.push(given(job, starts_ms));
    bytes.extend(job.user.iter().flat_map(|user| *user.0.as_bytes()));
    bytes.push(job.band as u8);
    put(&mut bytes, zigzag(job.rank.into()));
    put(&mut bytes, zigzag(job.seq));
    bytes.extend(job.seed.to_le_bytes());
    put(&mut bytes, zigzag(job.created_at_ms));
    put(&mut bytes, zigzag(held.0));
    if let Some(window) = &job.window {
        put(&mut bytes, window.len() as u64);
        bytes.extend(window.as_bytes());
    }
    let times = [
        job.not_before_ms,
        job.deadline_ms,
        starts_ms,
        job.could_start_ms,
    ];
    for time in times.into_iter().flatten() {
        put(&mut bytes, zigzag(time));
    }
    put(&mut bytes, whole.tasks.len() as u64);
    for task in &whole.tasks {
        bytes.extend(task.id.0.as_bytes());
        put(&mut bytes, shapes.number(&task.spec)?.into());
        put(&mut bytes, zigzag(task.estimate.0));
        put(&mut bytes, task.inputs.len() as u64);
        for input in &task.inputs {
            put(&mut bytes, (*input).into());
        }
    }
    bytes.shrink_to_fit();
    let same = unpack(&bytes, shapes).as_ref() == Some(whole);
    (same && head(&bytes, shapes).is_some()).then_some(bytes)
}

/// When the tasks of a new job that need no others may start, if that is not at once.
fn starts_ms(whole: &Whole) -> Option<i64> {
    let mut own = whole.tasks.iter().filter_map(|task| match task.state {
        TaskState::Ready { eligible_at_ms, .. } => Some(eligible_at_ms),
        _ => None,
    });
    own.next().filter(|at| *at != whole.job.created_at_ms)
}

fn given(job: &JobRow, starts_ms: Option<i64>) -> u8 {
    let parts = [
        job.user.is_some(),
        job.window.is_some(),
        job.not_before_ms.is_some(),
        job.deadline_ms.is_some(),
        starts_ms.is_some(),
        job.could_start_ms.is_some(),
    ];
    let bits = (0..).zip(parts);
    bits.map(|(bit, given)| u8::from(given) << bit).sum()
}

/// `None` for bytes of another format, or that name a shape which is not known.
pub(super) fn unpack(bytes: &[u8], shapes: &Shapes) -> Option<Whole> {
    let mut from = Reader::new(bytes)?;
    let start = from.start()?;
    let job = JobRow::new(&start);
    let reservation = ReservationRow::new(start.id, start.account(), start.held);
    let mut tasks = Vec::new();
    for index in 0..from.number()? {
        let task = from.task()?;
        let spec: Arc<TaskSpec> = shapes.find(task.shape)?.clone();
        let mut row = TaskRow::new(task.id, start.id, index as u32, spec);
        row.estimate = task.estimate;
        row.inputs = task.inputs.read()?;
        row.state = TaskState::new(row.inputs.len(), start.own_ms());
        tasks.push(row);
    }
    Some(Whole {
        job,
        tasks,
        reservation,
    })
}

/// `None` as for [`unpack`], and where its shots are of more than [`CLASSES_MAX`] classes or differ in their devices.
pub(super) fn head(bytes: &[u8], shapes: &Shapes) -> Option<Head> {
    let mut from = Reader::new(bytes)?;
    let start = from.start()?;
    let (mut classes, mut devices) = ([ShapeId::MAX; CLASSES_MAX], None);
    let (mut estimate, mut expected) = (GpuMicros::ZERO, Expected::default());
    let (mut ready, mut blocked) = (0, 0);
    for _ in 0..from.number()? {
        let task = from.task()?;
        let spec = shapes.find(task.shape)?;
        estimate.0 = estimate.0.saturating_add(task.estimate.0);
        expected.add(spec.kind(), task.estimate);
        match task.inputs.count {
            0 => ready += 1,
            _ => blocked += 1,
        }
        if spec.kind() == TaskKind::Render {
            add_class(&mut classes, shapes.class(task.shape)?)?;
            if *devices.get_or_insert(spec.devices()) != spec.devices() {
                return None;
            }
        }
    }
    classes.sort_unstable();
    Some(Head {
        job: start.id,
        seq: start.seq,
        ready,
        blocked,
        estimate,
        is_planned: start.could_start_ms.is_some(),
        line: Line {
            account: start.account(),
            band: start.band,
            classes,
            rank: start.rank,
            devices: devices?, // none: it has no shots
            wishes: start.wishes(expected),
        },
    })
}

/// Takes the first of several jobs off, with its number.
pub(super) fn split_first<'a>(bytes: &mut &'a [u8]) -> Option<(i64, &'a [u8])> {
    let whole = *bytes;
    let mut from = Reader::new(whole)?;
    let start = from.start()?;
    for _ in 0..from.number()? {
        from.task()?;
    }
    *bytes = from.0;
    Some((start.seq, &whole[..whole.len() - from.0.len()]))
}

fn add_class(classes: &mut Classes, own: ShapeId) -> Option<()> {
    let is_place = |class: &&mut ShapeId| **class == own || **class == ShapeId::MAX;
    *classes.iter_mut().find(is_place)? = own;
    Some(())
}

/// What a new job's rows are made of.
pub(super) struct Start {
    pub id: JobId,
    pub project: AccountId,
    pub user: Option<AccountId>,
    pub band: Band,
    pub rank: i32,
    pub seq: i64,
    pub seed: u64,
    pub created_at_ms: i64,
    pub held: GpuMicros,
    pub window: Option<String>,
    pub not_before_ms: Option<i64>,
    pub deadline_ms: Option<i64>,
    /// From when its tasks may start by its own wish, if that is not at once.
    pub starts_ms: Option<i64>,
    pub could_start_ms: Option<i64>,
}

impl Start {
    fn account(&self) -> AccountId {
        self.user.unwrap_or(self.project)
    }

    /// From when its tasks may start by its own wish.
    pub fn own_ms(&self) -> i64 {
        self.starts_ms.unwrap_or(self.created_at_ms)
    }

    fn wishes(&self, expected: Expected) -> Wishes {
        Wishes {
            window: self.window.as_deref().map(Arc::from),
            not_before_ms: self.starts_ms.and(self.not_before_ms),
            starts_ms: self.starts_ms,
            deadline_ms: self.deadline_ms,
            latest_ms: latest_start_ms(self.deadline_ms, expected),
            late_ms: match self.window {
                Some(_) => expected.late_ms(),
                None => 0,
            },
        }
    }
}

struct PackedTask<'a> {
    id: TaskId,
    shape: ShapeId,
    estimate: GpuMicros,
    inputs: Inputs<'a>,
}

/// Numbers that are read when somebody asks: a start passes over those of a million jobs.
struct Inputs<'a> {
    count: u64,
    bytes: &'a [u8],
}

impl Inputs<'_> {
    fn read(&self) -> Option<Vec<u32>> {
        let mut from = Reader(self.bytes);
        let numbers = (0..self.count).map(|_| u32::try_from(from.number()?).ok());
        numbers.collect()
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let (format, rest) = bytes.split_first()?;
        (*format == FORMAT).then_some(Self(rest))
    }

    fn start(&mut self) -> Option<Start> {
        let (id, project) = (JobId(self.id()?), AccountId(self.id()?));
        let [given] = self.take()?;
        let has = |bit: u8| given >> bit & 1 == 1;
        Some(Start {
            id,
            project,
            user: match has(0) {
                true => Some(AccountId(self.id()?)),
                false => None,
            },
            band: *Band::ALL.get(usize::from(self.take::<1>()?[0]))?,
            rank: i32::try_from(self.signed()?).ok()?,
            seq: self.signed()?,
            seed: u64::from_le_bytes(self.take()?),
            created_at_ms: self.signed()?,
            held: GpuMicros(self.signed()?),
            window: match has(1) {
                true => Some(self.text()?),
                false => None,
            },
            not_before_ms: self.signed_if(has(2))?,
            deadline_ms: self.signed_if(has(3))?,
            starts_ms: self.signed_if(has(4))?,
            could_start_ms: self.signed_if(has(5))?,
        })
    }

    fn task(&mut self) -> Option<PackedTask<'a>> {
        let id = TaskId(self.id()?);
        let shape = ShapeId::try_from(self.number()?).ok()?;
        let estimate = GpuMicros(self.signed()?);
        let inputs = Inputs {
            count: self.number()?,
            bytes: self.0,
        };
        for _ in 0..inputs.count {
            self.number()?;
        }
        Some(PackedTask {
            id,
            shape,
            estimate,
            inputs,
        })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*now)
    }

    fn id(&mut self) -> Option<Uuid> {
        self.take::<ID>().map(Uuid::from_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(str::from_utf8(text).ok()?.to_owned())
    }

    /// `None` for bytes that end too soon.
    fn signed_if(&mut self, given: bool) -> Option<Option<i64>> {
        match given {
            true => self.signed().map(Some),
            false => Some(None),
        }
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for place in (0..64).step_by(7) {
            let byte = self.take::<1>()?[0];
            number |= u64::from(byte & 0x7f) << place;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}
