//! Prices that were told and hold for a while: a submit that names one is held for what it said.
//!
//! Only in the memory of this process: a scheduler that starts anew knows none, and says so. A quote
//! is for films like those that were asked about; their words and seeds do not matter.

use std::{collections::BTreeMap, sync::Mutex};

use schemas::{AccountId, Digest, GpuMicros};
use uuid::Uuid;

use crate::{
    admission::{Code, Order, Refusal},
    core::shapes::shape_of,
};

/// How long a quote holds.
pub const VALID_S: i64 = 300;
/// Quotes that are remembered; the oldest is forgotten first.
const QUOTES_MAX: usize = 4_096;
const PREFIX: &str = "quote_";

/// By ids that grow with time.
#[derive(Debug, Default)]
pub struct Quotes(Mutex<BTreeMap<Uuid, Quoted>>);

#[derive(Debug)]
struct Quoted {
    project: AccountId,
    until_ms: i64,
    prices: BTreeMap<Digest, Price>,
}

/// What a film is held for, and what each of its tasks is expected to take.
#[derive(Debug)]
struct Price {
    hold: GpuMicros,
    estimates: Vec<GpuMicros>,
}

impl Quotes {
    /// The id of a new quote for films like these.
    pub fn give(&self, project: AccountId, orders: &[Order], now_ms: i64) -> String {
        let price = |order: &Order| Price {
            hold: order.hold,
            estimates: order.estimates.clone(),
        };
        let quoted = Quoted {
            project,
            until_ms: now_ms + VALID_S * 1_000,
            prices: orders.iter().map(|one| (film(one), price(one))).collect(),
        };
        let id = Uuid::now_v7();
        let mut all = self.0.lock().expect("nothing panics while it is held");
        all.insert(id, quoted);
        while all.len() > QUOTES_MAX {
            all.pop_first();
        }
        format!("{PREFIX}{}", id.simple())
    }

    /// Gives the order the price of the quote.
    ///
    /// # Errors
    /// A refusal when the quote is not known to this project, is over, or is for other films.
    pub fn apply(
        &self,
        name: &str,
        project: AccountId,
        order: &mut Order,
        now_ms: i64,
    ) -> Result<(), Refusal> {
        let id = name.strip_prefix(PREFIX).map(Uuid::try_parse);
        let all = self.0.lock().expect("nothing panics while it is held");
        let quoted = id
            .and_then(Result::ok)
            .and_then(|id| all.get(&id))
            .filter(|quoted| quoted.project == project);
        let Some(quoted) = quoted else {
            return Err(expired(
                "this farm does not know it; quotes are forgotten when the scheduler starts anew",
            ));
        };
        if quoted.until_ms <= now_ms {
            return Err(expired(&format!(
                "it was valid for {VALID_S} seconds, until {} s ago",
                (now_ms - quoted.until_ms) / 1_000
            )));
        }
        let Some(price) = quoted.prices.get(&film(order)) else {
            let why = "it is for films of another size, length, model, steps or priority; ask for \
                       an estimate of this one";
            return Err(Refusal::wrong_value("quote", why));
        };
        order.hold = price.hold;
        order.estimates.clone_from(&price.estimates);
        Ok(())
    }
}

fn expired(why: &str) -> Refusal {
    Refusal::new(
        Code::QuoteExpired,
        format!("The quote cannot be used: {why}. Ask for a new estimate, or leave it out."),
    )
    .about("quote")
}

/// What the price of a film depends on.
fn film(order: &Order) -> Digest {
    let tasks: Vec<_> = order.tasks.iter().map(shape_of).collect();
    let text = serde_json::to_vec(&(tasks, order.record.band()));
    Digest::of(&text.expect("sizes, numbers and names have a JSON form"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::{Catalogue, CatalogueSettings, VideoRequest, decide},
        review::Blocklist,
    };

    const ANN: AccountId = AccountId(Uuid::from_u128(1));
    const BOB: AccountId = AccountId(Uuid::from_u128(2));

    fn order(seconds: &str, prompt: &str) -> Order {
        let request = VideoRequest {
            prompt: prompt.into(),
            seconds: Some(seconds.into()),
            ..VideoRequest::default()
        };
        let catalogue = Catalogue::new(&CatalogueSettings::default(), &[]);
        decide(&request, &catalogue, &Blocklist::default(), 7).unwrap()
    }

    fn refused(given: Result<(), Refusal>) -> (Code, String) {
        let refusal = given.expect_err("this quote cannot be used");
        assert_eq!(refusal.param.as_deref(), Some("quote"));
        (refusal.code, refusal.message)
    }

    #[test]
    fn a_quote_holds_for_films_like_the_one_it_is_for_until_its_time_is_over() {
        let quotes = Quotes::default();
        let mut cheap = order("4", "a ball");
        (cheap.hold, cheap.estimates) = (GpuMicros(5), vec![GpuMicros(2), GpuMicros(1)]);
        let name = quotes.give(ANN, &[cheap.clone()], 1_000);
        let mut other = order("4", "two balls");
        let last = 1_000 + VALID_S * 1_000 - 1;
        quotes.apply(&name, ANN, &mut other, last).unwrap();
        assert_eq!(
            (other.hold, &other.estimates),
            (cheap.hold, &cheap.estimates)
        );

        let mut late = order("4", "a ball");
        let (code, why) = refused(quotes.apply(&name, ANN, &mut late, last + 1));
        assert_eq!(code, Code::QuoteExpired);
        assert!(why.contains("until 0 s ago"), "{why}");
        assert_ne!(late.hold, cheap.hold, "an old price is not taken");
        let mut long = order("8", "a ball");
        let (code, _) = refused(quotes.apply(&name, ANN, &mut long, 2_000));
        assert_eq!(code, Code::InvalidValue, "for another film");
        for (name, who) in [(name.as_str(), BOB), ("quote_1", ANN), ("", ANN)] {
            let (code, _) = refused(quotes.apply(name, who, &mut late, 2_000));
            assert_eq!(code, Code::QuoteExpired, "{name}");
        }
    }

    #[test]
    fn the_oldest_quote_is_forgotten_first() {
        let quotes = Quotes::default();
        let asked = [order("4", "a ball")];
        let first = quotes.give(ANN, &asked, 0);
        let second = quotes.give(ANN, &asked, 0);
        for _ in 1..QUOTES_MAX {
            quotes.give(ANN, &asked, 0);
        }
        let mut film = order("4", "a ball");
        refused(quotes.apply(&first, ANN, &mut film, 1));
        quotes.apply(&second, ANN, &mut film, 1).unwrap();
    }
}
