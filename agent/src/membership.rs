//! Who this agent is to the scheduler: its hello, and the welcome that answered it.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemas::{
    AgentId, BootId,
    agent::{Hello, Welcome},
};

use crate::client::{Client, ClientError, Try};

pub struct Membership {
    hello: Hello,
    welcome: Mutex<Welcome>,
}

impl Membership {
    /// Says hello until the scheduler answers; `ask` may end that.
    ///
    /// # Errors
    /// [`ClientError`] that waiting does not cure, such as a wrong token.
    pub async fn join(
        client: &Client,
        hello: Hello,
        ask: impl Fn() -> Try,
    ) -> Result<Self, ClientError> {
        let welcome = Client::persist("hello", ask, || client.hello(&hello)).await?;
        tracing::info!(agent = %welcome.agent, boot = %hello.boot, term = welcome.term, "joined");
        Ok(Self {
            hello,
            welcome: Mutex::new(welcome),
        })
    }

    /// Says hello again, after the scheduler forgot this agent.
    pub async fn rejoin(&self, client: &Client) -> Result<(), ClientError> {
        let welcome = client.hello(&self.hello).await?;
        tracing::info!(agent = %welcome.agent, term = welcome.term, "joined again");
        *self.welcome() = welcome;
        Ok(())
    }

    pub fn agent(&self) -> AgentId {
        self.welcome().agent
    }

    pub fn boot(&self) -> BootId {
        self.hello.boot
    }

    pub fn term(&self) -> u64 {
        self.welcome().term
    }

    pub fn heartbeat_every(&self) -> Duration {
        Duration::from_millis(self.welcome().heartbeat_ms.max(10))
    }

    /// Takes note of the term of an answer; false when an old leader gave it, which has no say.
    pub fn is_current(&self, term: u64) -> bool {
        let mut welcome = self.welcome();
        if term < welcome.term {
            return false;
        }
        welcome.term = term;
        true
    }

    fn welcome(&self) -> MutexGuard<'_, Welcome> {
        self.welcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
