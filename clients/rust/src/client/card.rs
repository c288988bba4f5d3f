//! The card: facts that an agent tells about itself when it connects, and that the registry keeps.

use serde::Serialize;

use super::{Builder, ClientError};

impl Builder {
    /// Where this agent runs: pc, railway, github, … Messages to an environment are routed by this.
    pub fn environment(mut self, environment: &str) -> Self {
        self.hello.environment = Some(environment.to_owned());
        self
    }

    /// The capabilities of this agent: an object or an array.
    ///
    /// # Errors
    /// The capabilities cannot be written as JSON.
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
