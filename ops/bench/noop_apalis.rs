//! apalis-postgres doing what `cargo xtask bench farm` does: no-op jobs in the same PostgreSQL.
//!
//! usage: noop-apalis ADDRESS JOBS    prints one JSON object a line: what, value

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use apalis::prelude::*;
use apalis_postgres::{Config, *};
use sqlx::pool::PoolOptions;
use tokio::{sync::Notify, task::JoinSet};

const CALLERS: u64 = 64;
const BATCH: u64 = 512;
const CONCURRENCY: usize = 24;
const LATENCIES: usize = 100;
const QUEUE: &str = "bench";

static DONE: AtomicU64 = AtomicU64::new(0);
static AIM: AtomicU64 = AtomicU64::new(0);
static REACHED: LazyLock<Notify> = LazyLock::new(Notify::new);

async fn noop(_: u64) -> Result<(), BoxDynError> {
    if DONE.fetch_add(1, Ordering::SeqCst) + 1 == AIM.load(Ordering::SeqCst) {
        REACHED.notify_one();
    }
    Ok(())
}

fn tell(what: &str, value: f64) {
    println!("{}", serde_json::json!({"what": what, "value": value}));
}

async fn push(pool: &PgPool, count: u64) {
    let task = |n: u64| TaskBuilder::new(serde_json::to_vec(&n).unwrap()).build();
    let tasks = (0..count).map(task).collect();
    let mut connection = pool.acquire().await.unwrap();
    apalis_postgres::queries::push_tasks(&mut *connection, QUEUE, tasks).await.unwrap();
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("the address of a database");
    let jobs: u64 = arguments.next().and_then(|n| n.parse().ok()).expect("a number of jobs");
    let pool = PoolOptions::new().max_connections(16).connect(&url).await.unwrap();
    PostgresStorage::setup(&pool).await.unwrap();

    let mut callers = JoinSet::new();
    let began = Instant::now();
    for _ in 0..CALLERS {
        let pool = pool.clone();
        callers.spawn(async move {
            for _ in 0..jobs / CALLERS {
                push(&pool, 1).await;
            }
        });
    }
    callers.join_all().await;
    let single = jobs / CALLERS * CALLERS;
    tell("single", single as f64 / began.elapsed().as_secs_f64());

    let began = Instant::now();
    for at in (0..jobs).step_by(BATCH as usize) {
        push(&pool, BATCH.min(jobs - at)).await;
    }
    tell("batched", jobs as f64 / began.elapsed().as_secs_f64());

    AIM.store(single + jobs, Ordering::SeqCst);
    let config = Config::default().queue(QUEUE).batch_size(CONCURRENCY);
    let backend = PostgresStorage::new(&pool)
        .with_config(config)
        .with_pubsub()
        .poll_with_interval(Duration::from_millis(100));
    let worker = WorkerBuilder::new("bench").backend(backend).concurrency(CONCURRENCY).build(noop);
    let began = Instant::now();
    tokio::spawn(worker.run());
    REACHED.notified().await;
    tell("work", (single + jobs) as f64 / began.elapsed().as_secs_f64());

    let mut took = Vec::new();
    for _ in 0..LATENCIES {
        AIM.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        push(&pool, 1).await;
        REACHED.notified().await;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    took.sort_by(f64::total_cmp);
    tell("p50", took[LATENCIES / 2]);
    tell("p99", took[LATENCIES * 99 / 100]);
    std::process::exit(0);
}
