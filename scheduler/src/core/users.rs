//! Users: accounts below a project, made when a request first names one.

use schemas::{AccountId, Digest};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Farm,
    rows::{AccountRow, Level},
};

/// Users that a project may have; jobs of further ones count for the project itself.
pub const USERS_MAX: usize = 10_000;
/// Longest name of a user as it is shown.
pub const USER_NAME_MAX: usize = 64;

/// Who of a project asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub id: AccountId,
    /// As accounts name it: `PROJECT:USER`.
    pub name: String,
}

impl User {
    /// The same project and text always give the same user. Texts that are long or have odd characters get
    /// a name that is cut and told apart by its end.
    pub fn new(project: AccountId, project_name: &str, text: &str) -> Self {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+".contains(c);
        let mut shown: String = text
            .chars()
            .filter(|c| plain(*c))
            .take(USER_NAME_MAX)
            .collect();
        if shown != text {
            let end = Digest::of(text.as_bytes()).to_string();
            shown = format!("{shown}~{}", &end[..8]);
        }
        Self {
            id: AccountId(Uuid::new_v5(&project.0, text.as_bytes())),
            name: format!("{project_name}:{shown}"),
        }
    }
}

impl Farm {
    /// The account of a job: the user's, made now if it is new, or the project's.
    pub(super) fn user_of(&mut self, project: AccountId, user: Option<User>) -> Option<AccountId> {
        let user = user?;
        if self.accounts.contains_key(&user.id) {
            return Some(user.id);
        }
        let users = self
            .accounts
            .values()
            .filter(|row| row.parent == Some(project));
        if users.count() >= USERS_MAX {
            return None;
        }
        let created_at_ms = self.now;
        self.add_account(AccountRow {
            id: user.id,
            parent: Some(project),
            level: Level::User,
            name: user.name,
            created_at_ms,
            weight: 1,
        });
        Some(user.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_told_apart_and_named_so_that_a_shell_and_a_path_take_it() {
        let project = AccountId(Uuid::from_u128(1));
        let name = |text: &str| User::new(project, "studio", text).name;
        assert_eq!(name("ann@example.org"), "studio:ann@example.org");
        assert!(name("a/b c").starts_with("studio:abc~"));
        assert_ne!(name("a/b"), name("a b"));
        assert!(name(&"x".repeat(500)).len() < 100);
        let id = |project: u128, text: &str| {
            User::new(AccountId(Uuid::from_u128(project)), "p", text).id
        };
        assert_eq!(id(1, "ann"), id(1, "ann"));
        assert_ne!(id(1, "ann"), id(2, "ann"));
        assert_ne!(id(1, "ann"), id(1, "bob"));
    }
}
