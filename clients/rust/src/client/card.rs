//! What an agent says of itself when it connects; the registry has it from then on.

use serde::Serialize;

use super::{Builder, ClientError};

impl Builder {
    /// Where this agent runs: pc, railway, github, … Messages to an environment go by it.
    pub fn environment(mut self, environment: &str) -> Self {
        self.hello.environment = Some(environment.to_owned());
        self
    }

    /// What this agent can do, an object or an array.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn capabilities(mut self, capabilities: &impl Serialize) -> Result<Self, ClientError> {
        let value = serde_json::to_value(capabilities)
            .map_err(|e| ClientError::Invalid(format!("the capabilities cannot be written as JSON: {e}")))?;
        self.hello.capabilities = Some(value);
        Ok(self)
    }

    /// The version of this agent's own software.
    pub fn version(mut self, version: &str) -> Self {
        self.hello.version = Some(version.to_owned());
        self
    }
}
