//! What requests would cost, whether they would be taken, and when they would be done; nothing is made.

use schemas::{
    GpuMicros, JobId, TaskId,
    video::{Estimate, GpuSeconds, QuotaAfter},
};
use uuid::Uuid;

use super::{
    ApiState,
    auth::Caller,
    error::{ApiError, body},
    object::reason,
    quotes::VALID_S,
    submit::{core_refused, decide, may_send, user},
};
use crate::{
    admission::{Catalogue, Order, Refusal, Submission, VideoRequest},
    core::{calibration::Correction, rows::NewJob, users::User},
    forecast::{Forecast, Interval},
};

/// Films that one estimate may be for.
pub const COUNT_MAX: u32 = 1_000;

/// What is asked about: one request some times, or one for each of several prompts.
pub struct Asked<'a> {
    pub wishes: Vec<VideoRequest>,
    pub count: u32,
    pub catalogue: &'a Catalogue,
}

/// The answer to an estimate and to a dry run.
pub async fn answer(
    state: &ApiState,
    caller: &Caller,
    asked: Asked<'_>,
) -> Result<Estimate, ApiError> {
    if asked.wishes.iter().any(|wish| wish.quote.is_some()) {
        let why = "an estimate makes a new one; name it when you create the film";
        return Err(Refusal::wrong_value("quote", why).into());
    }
    let mut reasons = Vec::new();
    let mut orders = Vec::new();
    for (place, wish) in asked.wishes.iter().enumerate() {
        let verdict = match may_send(caller, wish) {
            Ok(()) => decide(state, wish, asked.catalogue).await,
            Err(error) => Err(error),
        };
        match verdict {
            Ok(order) => orders.push(order),
            Err(error) => reasons.push(match asked.wishes.len() {
                1 => body(&error.refusal),
                _ => {
                    let mut told = body(&error.refusal);
                    told.error.param = Some(format!("prompts[{place}]"));
                    told
                }
            }),
        }
    }
    if asked.count > 1
        && let [order] = &orders[..]
    {
        orders = vec![order.clone(); asked.count as usize];
    }
    let hold = sum(&orders, |order| order.hold);
    let user = asked.wishes.first().and_then(|wish| user(caller, wish));
    if reasons.is_empty()
        && let Some(order) = orders.first()
    {
        let all = NewJob {
            hold,
            ..probe(caller, user.clone(), order.clone())
        };
        if let Some(refusal) = state.dispatcher.refusal(all).await? {
            reasons.push(body(&core_refused(&refusal).refusal));
        }
    }
    let named = asked.wishes.first().and_then(|wish| wish.model.clone());
    let model = named.unwrap_or_else(|| asked.catalogue.default_model.clone());
    let refused = Estimate {
        object: "video.estimate".into(),
        model,
        count: asked.wishes.len().max(asked.count as usize) as u32,
        accepted: reasons.is_empty(),
        reasons,
        price: None,
        price_at_most: None,
        gpu_seconds: None,
        queue_position: None,
        eta: Default::default(),
        late: 0,
        reason: None,
        quota_after: None,
        quote: None,
        valid_until: state.dispatcher.now_ms().div_euclid(1_000) + VALID_S,
    };
    if orders.is_empty() {
        return Ok(refused);
    }
    let expected = sum(&orders, Order::price);
    let (band, prices) = (orders[0].record.band(), &asked.catalogue.prices);
    let pool = prices.pools(&orders[0].tasks[0]).remove(0).class;
    let (price, left) = (state.price(), state.dispatcher.quota_left(caller.project));
    let quote = refused.accepted.then(|| {
        let quotes = &state.edge.quotes;
        quotes.give(caller.project, &orders, state.dispatcher.now_ms())
    });
    let has_deadline = orders[0].record.deadline.is_some();
    let foreseen = state.forecaster.ask(probes(caller, user, orders)).await?;
    let correction = foreseen.correction(band, &pool);
    let now = state.dispatcher.now_ms();
    let timed = timed(refused, &foreseen, correction, has_deadline, now);
    Ok(Estimate {
        price: price.money(expected),
        price_at_most: price.money(hold),
        gpu_seconds: Some(GpuSeconds {
            p50: expected.as_secs_f64(),
            p90: hold.as_secs_f64(),
        }),
        quota_after: left.await?.map(|left| QuotaAfter {
            gpu_seconds_remaining: GpuMicros(left.0 - hold.0).as_secs_f64(),
        }),
        quote,
        ..timed
    })
}

fn sum(orders: &[Order], of: impl Fn(&Order) -> GpuMicros) -> GpuMicros {
    let all = orders.iter().map(|order| of(order).0);
    GpuMicros(all.fold(0, i64::saturating_add))
}

/// The jobs as they would be submitted, holding nothing.
fn probes(caller: &Caller, user: Option<User>, orders: Vec<Order>) -> Vec<NewJob> {
    let one = |order: Order| probe(caller, user.clone(), order);
    orders.into_iter().map(one).collect()
}

fn probe(caller: &Caller, user: Option<User>, order: Order) -> NewJob {
    let submission = Submission {
        id: JobId(Uuid::now_v7()),
        project: caller.project,
        user,
        dedupe: None,
        idempotency: None,
    };
    NewJob {
        hold: GpuMicros::ZERO,
        ..order.into_job(submission, || TaskId(Uuid::now_v7()))
    }
}

/// Start of the first, end of the last, and why the first would wait; those that miss their deadline are counted apart.
fn timed(
    estimate: Estimate,
    foreseen: &Forecast,
    correction: Correction,
    has_deadline: bool,
    now: i64,
) -> Estimate {
    let Some((first, why)) = foreseen.probes.first() else {
        return estimate;
    };
    let hopeless = foreseen
        .probes
        .iter()
        .any(|(_, why)| why.as_ref().is_some_and(|why| why.has_no_end()));
    let all = foreseen.probes.iter().map(|(interval, _)| *interval);
    let is_late = |interval: &Interval| has_deadline && !hopeless && interval.starts.is_none();
    let late = all.clone().filter(is_late).count() as u32;
    let whole = match hopeless {
        true => None,
        false => all
            .filter(|interval| !is_late(interval))
            .reduce(Interval::with),
    };
    let whole = whole.unwrap_or_default();
    Estimate {
        late,
        queue_position: Some(foreseen.waiting + 1),
        eta: whole.eta(correction, now),
        reason: why.as_ref().map(|why| reason(why, Some(*first), now)),
        ..estimate
    }
}
