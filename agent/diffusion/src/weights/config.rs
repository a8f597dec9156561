//! A component's `config.json`: typed fields with the class default where one is missing, and a
//! warning for fields that nothing read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::WeightsError;

/// Larger than any size in a model's config, and small enough that a product of three fits 64 bits.
const NUMBER_MAX: u64 = 1 << 20;

/// Fields of one JSON object, remembering which were read.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    fields: Map<String, Value>,
    read: RefCell<BTreeSet<String>>,
}

impl Config {
    /// Reads a JSON object from a file.
    ///
    /// # Errors
    /// [`WeightsError::Read`], [`WeightsError::Json`].
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let text = std::fs::read_to_string(path).map_err(|source| WeightsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(path, &text)
    }

    /// Takes a JSON object that came from `path`.
    ///
    /// # Errors
    /// [`WeightsError::Json`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, WeightsError> {
        let fields = serde_json::from_str(text).map_err(|source| WeightsError::Json {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            fields,
            read: RefCell::default(),
        })
    }

    /// The file that the fields came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The field's value, or `default` when it is missing or null.
    ///
    /// # Errors
    /// [`WeightsError::Field`] when the value has another type.
    pub fn get<T: DeserializeOwned>(&self, field: &str, default: T) -> Result<T, WeightsError> {
        Ok(self.optional(field)?.unwrap_or(default))
    }

    /// The field's value, or nothing when it is missing or null.
    ///
    /// # Errors
    /// [`WeightsError::Field`] when the value has another type.
    pub fn optional<T: DeserializeOwned>(&self, field: &str) -> Result<Option<T>, WeightsError> {
        let Some(value) = self.raw(field) else {
            return Ok(None);
        };
        let largest = largest(value);
        if largest > NUMBER_MAX {
            let reason = format!("{largest} is more than any model has ({NUMBER_MAX})");
            return Err(self.refuse(field, reason));
        }
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| self.refuse(field, format!("{error} in {value}")))
    }

    /// The field as it stands in the file, or nothing when it is missing or null.
    pub fn raw(&self, field: &str) -> Option<&Value> {
        self.read.borrow_mut().insert(field.to_owned());
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The object under `field` as a config of its own (empty when missing).
    ///
    /// # Errors
    /// [`WeightsError::Field`] when the value is no object.
    pub fn section(&self, field: &str) -> Result<Config, WeightsError> {
        let fields = match self.raw(field) {
            None => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(other) => return Err(self.refuse(field, format!("{other} is no object"))),
        };
        Ok(Self {
            path: self.path.clone(),
            fields,
            read: RefCell::default(),
        })
    }

    /// True when the field is there, null or not.
    pub fn contains(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// Marks fields as known although nothing needs their value.
    pub fn ignore(&self, fields: &[&str]) {
        self.read
            .borrow_mut()
            .extend(fields.iter().map(|field| (*field).to_owned()));
    }

    /// The error for a value that is not supported.
    pub fn refuse(&self, field: &str, reason: impl Into<String>) -> WeightsError {
        WeightsError::Field {
            path: self.path.clone(),
            field: field.to_owned(),
            reason: reason.into(),
        }
    }

    /// Refuses a field whose value is not `expected`.
    ///
    /// # Errors
    /// [`WeightsError::Field`].
    pub fn require<T>(&self, field: &str, expected: T) -> Result<(), WeightsError>
    where
        T: DeserializeOwned + Clone + PartialEq + std::fmt::Debug,
    {
        let found = self.get(field, expected.clone())?;
        if found != expected {
            return Err(self.refuse(
                field,
                format!("{found:?} is not supported, only {expected:?}"),
            ));
        }
        Ok(())
    }

    /// Fields that nothing has read so far; names that begin with `_` are notes of the writer.
    pub fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        let unread = self
            .fields
            .keys()
            .filter(|name| !name.starts_with('_') && !read.contains(*name));
        unread.cloned().collect()
    }

    /// Warns once for every field that nothing has read. Call after the component is built.
    pub fn warn_unread(&self) {
        for field in self.unread() {
            tracing::warn!(path = %self.path.display(), field, "unknown config field is ignored");
        }
    }
}

/// The largest whole number in a value, signs left out.
fn largest(value: &Value) -> u64 {
    match value {
        Value::Number(number) => {
            let negative = || number.as_i64().map_or(0, i64::unsigned_abs);
            number.as_u64().unwrap_or_else(negative)
        }
        Value::Array(items) => items.iter().map(largest).max().unwrap_or(0),
        Value::Object(fields) => fields.values().map(largest).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(Path::new("part/config.json"), text).unwrap()
    }

    #[test]
    fn a_missing_field_takes_the_default_and_a_wrong_type_is_named() {
        let config = config(r#"{"layers": 3, "name": null, "eps": "small"}"#);
        assert_eq!(config.get("layers", 48usize).unwrap(), 3);
        assert_eq!(config.get("heads", 32usize).unwrap(), 32);
        assert_eq!(config.optional::<String>("name").unwrap(), None);
        let error = config.get("eps", 1e-6f32).unwrap_err().to_string();
        assert!(
            error.contains("part/config.json") && error.contains("`eps`"),
            "{error}"
        );
    }

    #[test]
    fn a_number_that_no_model_has_is_refused_by_field() {
        let config =
            config(r#"{"layers": 1048577, "widths": [3, [-9000000000]], "heads": 1048576}"#);
        let refusal = |error: WeightsError| error.to_string();
        let layers = refusal(config.get("layers", 1usize).unwrap_err());
        assert!(
            layers.contains("`layers`") && layers.contains("1048577"),
            "{layers}"
        );
        assert!(refusal(config.get("widths", Value::Null).unwrap_err()).contains("`widths`"));
        assert_eq!(config.get("heads", 1usize).unwrap(), 1_048_576);
    }

    #[test]
    fn unknown_fields_are_found() {
        let config = config(r#"{"_class_name": "X", "layers": 3, "zebra": 1}"#);
        config.get("layers", 1usize).unwrap();
        assert_eq!(config.unread(), ["zebra"]);
    }
}
