//! How much memory work needs of a device: what its engine foretold, then what it was seen to take.
//!
//! ```text
//! need = max(foretold x 0.9, 95th percentile of the last 32 peaks once there are 8)
//! room = memory of the device x 0.95 >= need, or so large a device has done such work before
//!        and no device of its class that is as small has run out of memory with it since
//! ```
//! By weights, size and class of device, as times are (see [`super::costs`]); of a group it is a device's share. A class
//! of devices that has not done the work yet is judged by what others of its kind (processors, cards) were told.
//! The second half of `room` is why one odd number can never make work impossible where it ran.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use schemas::{
    TaskId,
    agent::{Device, MemoryTold},
    task::TaskSpec,
};
use serde::{Deserialize, Serialize};

use super::{
    Farm,
    costs::{CostKey, CostRow, Costs, Size, key, size},
    placement::is_cpu_class,
    rows::{Holder, TaskRow, TaskState},
    write::Write,
};

/// Peaks that are kept, and how many say something.
const PEAKS_KEPT: usize = 32;
const PEAKS_ENOUGH: usize = 8;
const PEAK_PERCENT: usize = 95;
/// What is believed of the engine's own number.
const FORETOLD_PERCENT: u64 = 90;
/// Of a device's memory; the rest is left free.
const USED_PERCENT: u64 = 95;
/// No device has as much: whoever tells more is wrong.
const BYTES_MAX: u64 = 1 << 50;

/// What is known of the memory of one kind of work on one class of device, in bytes of each device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Peaks {
    /// The last one.
    pub foretold_bytes: Option<u64>,
    /// Oldest first.
    pub peaks: VecDeque<u64>,
    /// Memory of the smallest device that has done such work.
    pub proven_bytes: Option<u64>,
    /// Memory of the largest device that ran out of it, all below `proven_bytes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub short_bytes: Option<u64>,
}

impl Peaks {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// An attempt has succeeded on devices of this memory.
    fn note(&mut self, told: MemoryTold, devices: u64, device_bytes: u64) {
        let share = |bytes: Option<u64>| {
            let bytes = bytes.filter(|bytes| (1..=BYTES_MAX).contains(bytes));
            bytes.map(|bytes| bytes.div_ceil(devices.max(1)))
        };
        self.foretold_bytes = share(told.foretold_bytes).or(self.foretold_bytes);
        self.peaks.extend(share(told.peak_bytes));
        while self.peaks.len() > PEAKS_KEPT {
            self.peaks.pop_front();
        }
        let proven = self.proven_bytes.unwrap_or(u64::MAX);
        self.proven_bytes = Some(proven.min(device_bytes));
        self.short_bytes = self.short_bytes.filter(|short| *short < device_bytes);
    }

    /// An attempt has run out of memory on a device of this one. Where such work was done before, that was odd.
    fn note_short(&mut self, device_bytes: u64) {
        if self.proven_bytes.is_none_or(|proven| proven > device_bytes) {
            self.short_bytes = self.short_bytes.max(Some(device_bytes));
        }
    }

    /// What 95 of 100 attempts stay below; absent while too few were seen.
    pub fn peak_p95_bytes(&self) -> Option<u64> {
        let mut sorted: Vec<u64> = self.peaks.iter().copied().collect();
        sorted.sort_unstable();
        let rank = (sorted.len() * PEAK_PERCENT).div_ceil(100);
        match sorted.len() < PEAKS_ENOUGH {
            true => None,
            false => sorted.get(rank - 1).copied(),
        }
    }

    pub fn need_bytes(&self) -> Option<u64> {
        let foretold = self.foretold_bytes;
        foretold
            .map(|bytes| bytes / 100 * FORETOLD_PERCENT)
            .max(self.peak_p95_bytes())
    }

    fn need(&self) -> Need {
        Need {
            bytes: self.need_bytes(),
            proven_bytes: self.proven_bytes,
            short_bytes: self.short_bytes,
        }
    }
}

/// What a device must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Need {
    bytes: Option<u64>,
    proven_bytes: Option<u64>,
    short_bytes: Option<u64>,
}

impl Need {
    /// Memory of the smallest device that has room; none is too small for what nobody knows.
    fn device_bytes(self) -> u64 {
        let enough = self.bytes.map_or(0, |bytes| bytes * 100 / USED_PERCENT);
        enough
            .min(self.proven_bytes.unwrap_or(u64::MAX))
            .max(self.above_short_bytes())
    }

    fn above_short_bytes(self) -> u64 {
        self.short_bytes.map_or(0, |short| short.saturating_add(1))
    }

    /// The easier of the two; what was too small says nothing of another class.
    fn or(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        Self {
            bytes: least(self.bytes, other.bytes),
            proven_bytes: least(self.proven_bytes, other.proven_bytes),
            short_bytes: None,
        }
    }
}

/// Which work is alike: its size, and on how many devices.
type Work = (Size, u32);

/// What each kind of work needs, at hand for each decision. Follows from the costs; cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Needs(Arc<BTreeMap<String, BTreeMap<Work, Known>>>);

/// Of one kind of work.
#[derive(Clone, Debug, Default, PartialEq)]
struct Known {
    by_class: BTreeMap<String, Need>,
    /// What goes for a class that has not done it: of other processors, and of other cards.
    cpu: Need,
    card: Need,
}

impl Needs {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a CostRow>) -> Self {
        let mut needs = Self::default();
        for row in rows.into_iter().filter(|row| !row.memory.is_empty()) {
            needs.put(&row.key, &row.memory);
        }
        needs
    }

    fn put(&mut self, key: &CostKey, memory: &Peaks) {
        let Some((size, (class, devices))) = size_of(&key.shape).zip(split(&key.class)) else {
            return;
        };
        let all = Arc::make_mut(&mut self.0);
        let of_weights = all.entry(key.weights.clone()).or_default();
        let known = of_weights.entry((size, devices)).or_default();
        known.by_class.insert(class.into(), memory.need());
        let (cpus, cards): (Vec<_>, Vec<_>) = known
            .by_class
            .iter()
            .partition(|(class, _)| is_cpu_class(class));
        let easiest = |of: Vec<(&String, &Need)>| {
            let needs = of.into_iter().map(|(_, need)| *need);
            needs.fold(Need::default(), Need::or)
        };
        (known.cpu, known.card) = (easiest(cpus), easiest(cards));
    }

    /// Of a kind of work, whatever task it is.
    pub(super) fn find(&self, weights: &str, size: Size, devices: u32) -> Room<'_> {
        let of_weights = self.0.get(weights);
        Room {
            own_bytes: 0,
            known: of_weights.and_then(|works| works.get(&(size, devices))),
        }
    }

    pub fn find_spec(&self, spec: &TaskSpec) -> Room<'_> {
        match spec {
            TaskSpec::Render(render) => {
                let size = size(render.width, render.height, render.frames);
                self.find(&render.weights, size, render.devices)
            }
            TaskSpec::Assemble(_) => Room::default(),
        }
    }
}

/// What is known of the memory of one kind of work on one class of device, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedView {
    pub weights: String,
    pub size: Size,
    pub class: String,
    /// Devices that work on it together.
    pub devices: u32,
    /// Of each of these.
    pub peaks: Peaks,
    /// Memory that each must have at least.
    pub device_bytes: u64,
}

impl NeedView {
    /// Most frames of such work.
    pub fn frames_max(&self) -> u32 {
        self.size[2].saturating_add(1)
    }
}

/// All that is known, in the order of weights, size and class.
pub fn views(costs: &Costs) -> Vec<NeedView> {
    let view = |row: CostRow| {
        let (size, (class, devices)) = size_of(&row.key.shape).zip(split(&row.key.class))?;
        let need = row.memory.need();
        need.bytes.or(need.short_bytes)?;
        Some(NeedView {
            weights: row.key.weights.clone(),
            size,
            class: class.into(),
            devices,
            device_bytes: need.device_bytes(),
            peaks: row.memory,
        })
    };
    let mut views: Vec<NeedView> = costs.rows().into_iter().filter_map(view).collect();
    views.sort_by(|a, b| {
        let of = |view: &NeedView| {
            (
                view.weights.clone(),
                view.size,
                view.devices,
                view.class.clone(),
            )
        };
        of(a).cmp(&of(b))
    });
    views
}

/// What one task needs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room<'a> {
    /// Memory that a device must have because a smaller one was not enough for this very task.
    own_bytes: u64,
    known: Option<&'a Known>,
}

impl Room<'_> {
    /// Memory that a device of this class must have at least.
    pub fn device_bytes(&self, class: &str) -> u64 {
        self.own_bytes.max(self.alike_bytes(class))
    }

    pub fn holds(&self, device: &Device) -> bool {
        device.memory_bytes >= self.device_bytes(&device.class)
    }

    /// Whether no task of its kind would find room there either.
    pub(super) fn is_short_for_all(&self, device: &Device) -> bool {
        device.memory_bytes < self.alike_bytes(&device.class)
    }

    fn alike_bytes(&self, class: &str) -> u64 {
        let Some(known) = self.known else {
            return 0;
        };
        let others = || match is_cpu_class(class) {
            true => known.cpu,
            false => known.card,
        };
        let own = known.by_class.get(class).copied().unwrap_or_default();
        let judged = own.bytes.map_or_else(others, |_| own);
        judged.device_bytes().max(own.above_short_bytes())
    }
}

impl Farm {
    /// The memory that a task needs; all that asks whether a device is large enough asks this.
    pub(super) fn room_for(&self, task: &TaskRow) -> Room<'_> {
        Room {
            own_bytes: task.memory_bytes.unwrap_or(0),
            ..self.needs.find_spec(&task.spec)
        }
    }

    /// A task has succeeded: what it took of memory is learnt under the class of its device.
    pub(super) fn learn_memory(&mut self, id: TaskId, told: MemoryTold) {
        if let TaskState::Leased(holder) = self.task_at(id).row.state {
            let devices = holder.group.count().into();
            self.learn_memory_by(id, &holder, |memory, bytes| {
                memory.note(told, devices, bytes)
            });
        }
    }

    /// A task has run out of memory where a larger device can do it: others of its kind need not try.
    pub(super) fn learn_short(&mut self, id: TaskId, holder: &Holder) {
        self.learn_memory_by(id, holder, Peaks::note_short);
    }

    /// `note` takes the memory of the task's device.
    fn learn_memory_by(&mut self, id: TaskId, holder: &Holder, note: impl FnOnce(&mut Peaks, u64)) {
        let spec = Arc::clone(&self.task_at(id).row.spec);
        let agent = self.agents.get(&holder.agent);
        let device = agent.and_then(|agent| agent.row.device(holder.device));
        let (TaskSpec::Render(_), Some(device)) = (&*spec, device) else {
            return;
        };
        let key = key(&spec, &device.class);
        let before = self.costs.memory(&key).cloned().unwrap_or_default();
        let mut memory = before.clone();
        note(&mut memory, device.memory_bytes);
        if memory == before {
            return;
        }
        self.needs.put(&key, &memory);
        let row = self.costs.put_memory(&key, memory);
        self.writes.push(Write::PutCost(row));
    }

    /// Takes over what another farm has learnt of memory.
    pub fn know_memory(&mut self, costs: &Costs) {
        for row in costs.rows() {
            if !row.memory.is_empty() {
                self.needs.put(&row.key, &row.memory);
                self.costs.put_memory(&row.key, row.memory);
            }
        }
    }
}

/// `WxHxF`.
fn size_of(shape: &str) -> Option<Size> {
    let mut numbers = shape.split('x').map(|number| number.parse().ok());
    let size = [numbers.next()??, numbers.next()??, numbers.next()??];
    numbers.next().is_none().then_some(size)
}

/// Class and number of devices from the key of costs.
fn split(class: &str) -> Option<(&str, u32)> {
    let group = class.rsplit_once(" x");
    let group = group.and_then(|(class, devices)| Some((class, devices.parse().ok()?)));
    Some(group.unwrap_or((class, 1)))
}
