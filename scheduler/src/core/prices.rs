//! The price book: what was measured, beside the devices that there are, as a quote needs them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

use schemas::{
    AgentId, TaskId,
    agent::{Device, Times},
    task::TaskSpec,
};

use super::{
    Farm,
    costs::{CostClass, CostKey, Costs, FILM, Part, Service, Spread, key, measured},
    memory::{Needs, Room},
    placement::CPU_CLASS,
    rows::{AgentRow, AgentState, TaskState},
    write::Write,
};

/// Devices of a class that can do a kind of work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub class: String,
    pub devices: u32,
    /// Most that work on one shot at once.
    pub group_max: u32,
    /// Devices by their memory in bytes.
    memory: BTreeMap<u64, u32>,
}

impl Pool {
    /// Those of its devices that have room for this work.
    fn with_room(&self, room: Room<'_>) -> Option<Self> {
        let enough = room.device_bytes(&self.class);
        let memory: BTreeMap<u64, u32> =
            self.memory.range(enough..).map(|(k, v)| (*k, *v)).collect();
        let devices = memory.values().sum();
        (devices > 0).then(|| Self {
            devices,
            memory,
            ..self.clone()
        })
    }
}

/// All that a quote needs: times, and the devices that there are for each kind of work. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PriceBook {
    pub costs: Costs,
    needs: Needs,
    farm: Arc<Devices>,
}

/// What there is to work with.
#[derive(Clone, Debug, Default, PartialEq)]
struct Devices {
    /// By name of the weights; the largest pool first.
    pools: BTreeMap<String, Vec<Pool>>,
    classes: BTreeMap<String, CostClass>,
}

impl PriceBook {
    /// Devices that can do this work; before any is known it is the reference device.
    pub fn pools(&self, spec: &TaskSpec) -> Vec<Pool> {
        let found = match spec {
            TaskSpec::Render(render) => self.farm.pools.get(&render.weights),
            TaskSpec::Assemble(_) => self.farm.pools.get(FILM),
        };
        let reference = || {
            vec![Pool {
                class: CPU_CLASS.into(),
                devices: 1,
                group_max: 1,
                memory: BTreeMap::new(),
            }]
        };
        let all = found.cloned().unwrap_or_else(reference);
        // Where no group is large enough, or no device, the task waits, and is still priced.
        let room = self.room(spec);
        let capable: Vec<Pool> = all
            .iter()
            .filter(|pool| pool.group_max >= spec.devices())
            .filter_map(|pool| pool.with_room(room))
            .collect();
        match capable.is_empty() {
            true => all,
            false => capable,
        }
    }

    /// What is expected on the devices of the farm, by their number; the careful ends are those of the slowest class.
    pub fn device_time(&self, spec: &TaskSpec, class: CostClass) -> Spread {
        let pools = self.pools(spec);
        let all: u128 = pools.iter().map(|pool| u128::from(pool.devices)).sum();
        let class = self.class_of(spec).unwrap_or(class);
        let (mut sum, mut slowest) = ([0u128; 2], [0u64; 2]);
        for pool in &pools {
            let Spread([p10, p50, p90, p99]) =
                self.costs.service(spec, &pool.class, class).device();
            sum[0] += u128::from(p10) * u128::from(pool.devices);
            sum[1] += u128::from(p50) * u128::from(pool.devices);
            slowest = [slowest[0].max(p90), slowest[1].max(p99)];
        }
        let mean = |sum: u128| u64::try_from(sum / all.max(1)).unwrap_or(u64::MAX);
        Spread([mean(sum[0]), mean(sum[1]), slowest[0], slowest[1]])
    }

    /// The memory that this work needs.
    pub fn room(&self, spec: &TaskSpec) -> Room<'_> {
        self.needs.find_spec(spec)
    }

    /// What the task takes on one device.
    pub fn service(&self, spec: &TaskSpec, device: &str) -> Service {
        let class = self.class_of(spec).unwrap_or_default();
        self.costs.service(spec, device, class)
    }

    fn class_of(&self, spec: &TaskSpec) -> Option<CostClass> {
        match spec {
            TaskSpec::Render(render) => self.farm.classes.get(&render.weights).copied(),
            TaskSpec::Assemble(_) => Some(CostClass::default()),
        }
    }
}

/// The devices of this moment, counted when they are asked for and forgotten when an agent changes.
#[derive(Clone, Debug, Default)]
pub(super) struct Kept(OnceLock<Arc<Devices>>);

impl Kept {
    pub fn forget(&mut self) {
        self.0.take();
    }
}

impl Farm {
    pub fn prices(&self) -> PriceBook {
        let devices = self.prices.0.get_or_init(|| Arc::new(self.devices()));
        PriceBook {
            costs: self.costs.clone(),
            needs: self.needs.clone(),
            farm: Arc::clone(devices),
        }
    }

    fn devices(&self) -> Devices {
        let mut devices = Devices::default();
        let mut counts: BTreeMap<(String, String), Pool> = BTreeMap::new();
        let known = self.agents.values().map(|agent| &agent.row);
        for row in known.filter(|row| row.state != AgentState::Gone) {
            for info in &row.weights {
                let rate = self.limits.rate_ppm.get(&info.name).copied();
                let class = CostClass {
                    frames_step: info.frames_step.max(1),
                    steps: info.steps,
                    rate_ppm: rate.unwrap_or(CostClass::default().rate_ppm),
                };
                devices.classes.insert(info.name.clone(), class);
            }
            let largest = row.largest_group();
            for (kind, device) in works(row) {
                let pool = counts.entry((kind, device.class.clone())).or_default();
                pool.devices += 1;
                pool.group_max = largest.max(pool.group_max);
                *pool.memory.entry(device.memory_bytes).or_default() += 1;
            }
        }
        for ((kind, class), pool) in counts {
            let pools = devices.pools.entry(kind).or_default();
            pools.push(Pool { class, ..pool });
            pools.sort_by_key(|pool| std::cmp::Reverse(pool.devices));
        }
        devices
    }

    /// A task has succeeded: its times are learnt under the class of its device.
    pub(super) fn learn(&mut self, id: TaskId, times: &Times, steps_run: u32) {
        let row = &self.task_at(id).row;
        let TaskState::Leased(holder) = row.state else {
            unreachable!("only a leased task succeeds");
        };
        let spec = Arc::clone(&row.spec);
        let Some(device) = self.device_class(holder.agent, holder.device) else {
            return;
        };
        let class = self.class_known(&spec);
        let numbers = measured(times, &spec, steps_run, class);
        if !numbers.is_empty() {
            self.add_numbers(&key(&spec, &device), &numbers);
        }
    }

    pub(super) fn add_numbers(&mut self, key: &CostKey, numbers: &[(Part, u64)]) {
        let row = self.costs.add(key, numbers);
        self.writes.push(Write::PutCost(row));
    }

    /// Without a rate: it plays no part in what was measured.
    fn class_known(&self, spec: &TaskSpec) -> CostClass {
        let TaskSpec::Render(render) = spec else {
            return CostClass::default();
        };
        let infos = self.agents.values().flat_map(|agent| &agent.row.weights);
        let mut named = infos.filter(|info| info.name == render.weights);
        named
            .next()
            .map_or_else(CostClass::default, |info| CostClass {
                frames_step: info.frames_step.max(1),
                ..CostClass::default()
            })
    }

    pub(super) fn device_class(&self, agent: AgentId, device: u32) -> Option<String> {
        let devices = &self.agents.get(&agent)?.row.devices;
        let found = devices.iter().find(|known| known.index == device)?;
        Some(found.class.clone())
    }
}

/// Each kind of work with each device of a node that can do it.
fn works(row: &AgentRow) -> Vec<(String, &Device)> {
    let mut kinds: BTreeSet<String> = row.weights.iter().map(|info| info.name.clone()).collect();
    if row.ffmpeg.is_some() {
        kinds.insert(FILM.into());
    }
    let pair = |kind: String| {
        let devices = row.devices.iter();
        devices.map(move |device| (kind.clone(), device))
    };
    kinds.into_iter().flat_map(pair).collect()
}
