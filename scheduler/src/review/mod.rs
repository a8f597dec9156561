//! Local moderation before anything is rendered: a pure verdict over the texts of a request.
//!
//! The operator lists words and phrases; nothing is sent anywhere. An empty list blocks nothing.

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Refused before rendering: no job, no charge. `phrase` is for the operator's log only.
    Blocked {
        phrase: String,
    },
}

/// Phrases that a prompt must not contain, as the operator wrote them.
#[derive(Clone, Debug, Default)]
pub struct Blocklist(Vec<(String, Vec<String>)>);

impl Blocklist {
    /// Phrases without any letter or digit could match nothing and are dropped.
    pub fn new(phrases: impl IntoIterator<Item = String>) -> Self {
        let with_words = |phrase: String| {
            let words = words(&phrase);
            (!words.is_empty()).then_some((phrase, words))
        };
        Self(phrases.into_iter().filter_map(with_words).collect())
    }
}

/// Judges texts by whole words, ignoring case and punctuation: `ass` does not match `glass`.
pub fn verdict<'a>(texts: impl IntoIterator<Item = &'a str>, blocklist: &Blocklist) -> Verdict {
    for text in texts {
        let text = words(text);
        for (phrase, blocked) in &blocklist.0 {
            if text
                .windows(blocked.len())
                .any(|window| window == blocked.as_slice())
            {
                return Verdict::Blocked {
                    phrase: phrase.clone(),
                };
            }
        }
    }
    Verdict::Pass
}

/// Words in lower case, without punctuation.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_phrases_are_blocked_and_parts_of_words_are_not() {
        let blocklist = Blocklist::new(["Bad  thing".to_owned(), "ass".to_owned(), "!".to_owned()]);
        let blocked = |text| verdict(["fine", text], &blocklist) != Verdict::Pass;
        assert!(blocked("a BAD-thing, really"));
        assert!(blocked("ass"));
        assert!(!blocked("a glass of bad, old things!"));
        assert!(!blocked(""));
    }

    #[test]
    fn an_empty_list_blocks_nothing() {
        assert_eq!(verdict(["anything"], &Blocklist::default()), Verdict::Pass);
    }
}
