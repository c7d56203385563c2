use std::collections::BTreeMap;

/// What a template is given: a small tree.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum Value {
    /// Nothing at all.
    #[default]
    Nil,
    /// `bool`.
    Bool(bool),
    /// `int`.
    Int(i64),
    /// `uint64`.
    Uint(u64),
    /// `float64`.
    Float(f64),
    /// `string`.
    String(String),
    /// `[]string`.
    Strings(Vec<String>),
    /// `[]interface {}`.
    List(Vec<Value>),
    /// `map[string]string`.
    StringMap(BTreeMap<String, String>),
    /// `map[string]interface {}`.
    Map(BTreeMap<String, Value>),
    /// A struct.
    Record(Record),
}

/// A struct of Go's: fields of a fixed set, which cannot be indexed or ranged over.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Record {
    pub(crate) name: String,
    pub(crate) fields: Vec<(String, Value)>,
    pub(crate) text: Option<String>,
}

impl Record {
    /// What Go would print of the struct, where its type says so by a method `String`.
    #[must_use]
    pub fn shown_as(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

impl Value {
    /// A map of anything: `map[string]interface {}`.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Map(entries.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// A map of strings: `map[string]string`.
    pub fn string_map<K: Into<String>, V: Into<String>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self::StringMap(entries.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }

    /// A list of strings: `[]string`.
    pub fn strings<V: Into<String>>(items: impl IntoIterator<Item = V>) -> Self {
        Self::Strings(items.into_iter().map(Into::into).collect())
    }

    /// A list of anything: `[]interface {}`.
    pub fn list(items: impl IntoIterator<Item = Value>) -> Self {
        Self::List(items.into_iter().collect())
    }

    /// A struct, with the name that Go's errors give its type, such as
    /// `x509pop.agentPathTemplateData`. List the fields of embedded structs among its own.
    pub fn record<K: Into<String>>(
        type_name: impl Into<String>,
        fields: impl IntoIterator<Item = (K, Value)>,
    ) -> Self {
        Self::Record(Record {
            name: type_name.into(),
            fields: fields.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            text: None,
        })
    }

    /// A struct with a method `String`, which tells what is printed for it: see [`Value::record`].
    pub fn shown_record<K: Into<String>>(
        type_name: impl Into<String>,
        text: impl Into<String>,
        fields: impl IntoIterator<Item = (K, Value)>,
    ) -> Self {
        match Self::record(type_name, fields) {
            Self::Record(record) => Self::Record(record.shown_as(text)),
            other => other,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<&String> for Value {
    fn from(text: &String) -> Self {
        Self::String(text.clone())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}
