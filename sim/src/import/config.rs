//! The `config` part of an import job.

use serde_json::Value;

/// What the server reads of an import configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ImportConfig {
    pub(crate) name: String,
    pub(crate) stage: bool,
    /// Absent: one transaction.
    pub(crate) batch_size: Option<usize>,
    pub(crate) group_key: Option<String>,
    pub(crate) input: InputConfig,
}

/// How the file is to be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct InputConfig {
    pub(crate) service: Option<String>,
    pub(crate) time_zone: Option<String>,
    /// Settings, numbers and texts alike as text.
    settings: Vec<(String, String)>,
}

impl InputConfig {
    /// A setting, or its default.
    pub(super) fn setting<'a>(&'a self, name: &str, default: &'a str) -> &'a str {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map_or(default, |(_, value)| value.as_str())
    }
}

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{member} has the wrong type")]
    Type { member: &'static str },
    #[error("name is required")]
    NoName,
    #[error("inputConfiguration is required")]
    NoInput,
}

impl ImportConfig {
    /// Reads the JSON; unknown members are ignored, as the server does.
    pub(crate) fn read(json: &Value) -> Result<Self, ConfigError> {
        let input = match &json["inputConfiguration"] {
            Value::Null => return Err(ConfigError::NoInput),
            Value::Object(_) => &json["inputConfiguration"],
            _ => return Err(ConfigError::Type { member: "inputConfiguration" }),
        };
        let batch_size = match &json["batchSize"] {
            Value::Null => None,
            number => {
                let size = number.as_u64().and_then(|size| usize::try_from(size).ok());
                Some(size.ok_or(ConfigError::Type { member: "batchSize" })?)
            }
        };
        Ok(Self {
            name: text(json, "name")?.filter(|name| !name.is_empty()).ok_or(ConfigError::NoName)?,
            stage: match &json["stage"] {
                Value::Null => false,
                value => value.as_bool().ok_or(ConfigError::Type { member: "stage" })?,
            },
            batch_size: batch_size.filter(|size| *size > 0),
            group_key: text(json, "groupKey")?,
            input: InputConfig {
                service: text(input, "serviceIdentifier")?,
                time_zone: text(input, "timeZoneId")?,
                settings: settings(&input["serviceProperties"])?,
            },
        })
    }
}

fn text(json: &Value, member: &'static str) -> Result<Option<String>, ConfigError> {
    match &json[member] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        _ => Err(ConfigError::Type { member }),
    }
}

fn settings(json: &Value) -> Result<Vec<(String, String)>, ConfigError> {
    let wrong = ConfigError::Type { member: "serviceProperties" };
    match json {
        Value::Null => Ok(Vec::new()),
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| match value {
                Value::String(text) => Ok((name.clone(), text.clone())),
                Value::Number(number) => Ok((name.clone(), number.to_string())),
                _ => Err(wrong.clone()),
            })
            .collect(),
        _ => Err(wrong),
    }
}
