//! Messages as JSON, in the manner of proto3: lowerCamelCase names, 64-bit
//! integers as strings, enums by name, absent where a field has its default.
//!
//! It reads the encoded message by its descriptor, so that no field of the
//! contract can be forgotten here.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

use crate::pb::FILE_DESCRIPTOR_SET;

/// `message`, whose name in `claudepool.v1` is `name`.
pub(super) fn of(name: &str, message: &impl Message) -> Value {
    let schema = Schema::get();
    schema
        .message(&format!(".claudepool.v1.{name}"), &message.encode_to_vec())
        .unwrap_or(Value::Null)
}

#[derive(Default)]
struct Schema {
    messages: HashMap<String, BTreeMap<u32, FieldDescriptorProto>>,
    map_entries: HashMap<String, bool>,
    enums: HashMap<String, HashMap<i32, String>>,
}

/// A value as it lies on the wire.
enum Raw<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl Schema {
    fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let mut schema = Self::default();
            let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET)
                .map(|set| set.file)
                .unwrap_or_default();
            for file in files {
                let scope = format!(".{}", file.package());
                for message in &file.message_type {
                    schema.add_message(&scope, message);
                }
                for one in &file.enum_type {
                    schema.add_enum(&scope, one);
                }
            }
            schema
        })
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}.{}", message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested);
        }
        for one in &message.enum_type {
            self.add_enum(&name, one);
        }
        let is_map = message.options.as_ref().is_some_and(|o| o.map_entry());
        self.map_entries.insert(name.clone(), is_map);
        let fields = message.field.iter();
        self.messages.insert(
            name,
            fields
                .map(|field| (field.number() as u32, field.clone()))
                .collect(),
        );
    }

    fn add_enum(&mut self, scope: &str, one: &EnumDescriptorProto) {
        let values = one.value.iter();
        self.enums.insert(
            format!("{scope}.{}", one.name()),
            values
                .map(|value| (value.number(), value.name().to_owned()))
                .collect(),
        );
    }

    fn message(&self, name: &str, bytes: &[u8]) -> Option<Value> {
        match name {
            ".google.protobuf.Timestamp" => {
                return Some(json!(
                    prost_types::Timestamp::decode(bytes).ok()?.to_string()
                ));
            }
            ".google.protobuf.Duration" => {
                return Some(json!(
                    prost_types::Duration::decode(bytes).ok()?.to_string()
                ));
            }
            _ => {}
        }
        let fields = self.messages.get(name)?;
        let mut object = Map::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, raw) = next(&mut rest)?;
            // A server newer than this program may send more.
            let Some(field) = fields.get(&number) else {
                continue;
            };
            let key = camel(field.name());
            if self.map_entries.get(field.type_name()) == Some(&true) {
                let entry = self.value(field, &raw)?;
                let name = match &entry["key"] {
                    Value::String(name) => name.clone(),
                    Value::Null => String::new(),
                    other => other.to_string(),
                };
                let value = entry.get("value").cloned().unwrap_or_else(|| json!(""));
                object
                    .entry(key)
                    .or_insert_with(|| json!({}))
                    .as_object_mut()?
                    .insert(name, value);
            } else if field.label() == Label::Repeated {
                let list = object.entry(key).or_insert_with(|| json!([]));
                for value in self.values(field, &raw)? {
                    list.as_array_mut()?.push(value);
                }
            } else {
                object.insert(key, self.value(field, &raw)?);
            }
        }
        Some(Value::Object(object))
    }

    /// Numbers of a repeated field lie packed.
    fn values(&self, field: &FieldDescriptorProto, raw: &Raw<'_>) -> Option<Vec<Value>> {
        let whole = matches!(field.r#type(), Type::Message | Type::String | Type::Bytes);
        let &Raw::Bytes(mut rest) = raw else {
            return Some(vec![self.value(field, raw)?]);
        };
        if whole {
            return Some(vec![self.value(field, raw)?]);
        }
        let mut values = Vec::new();
        while !rest.is_empty() {
            let number = match field.r#type() {
                Type::Double | Type::Fixed64 | Type::Sfixed64 => fixed(&mut rest, 8)?,
                Type::Float | Type::Fixed32 | Type::Sfixed32 => fixed(&mut rest, 4)?,
                _ => varint(&mut rest)?,
            };
            values.push(self.value(field, &Raw::Number(number))?);
        }
        Some(values)
    }

    fn value(&self, field: &FieldDescriptorProto, raw: &Raw<'_>) -> Option<Value> {
        Some(match (field.r#type(), raw) {
            (Type::Message, Raw::Bytes(bytes)) => self.message(field.type_name(), bytes)?,
            (Type::String, Raw::Bytes(bytes)) => json!(String::from_utf8_lossy(bytes)),
            (Type::Bool, Raw::Number(n)) => json!(*n != 0),
            (Type::Enum, Raw::Number(n)) => {
                let number = *n as i32;
                match self.enums.get(field.type_name())?.get(&number) {
                    Some(name) => json!(name),
                    None => json!(number),
                }
            }
            (Type::Int32 | Type::Sfixed32, Raw::Number(n)) => json!(*n as i32),
            (Type::Uint32 | Type::Fixed32, Raw::Number(n)) => json!(*n as u32),
            (Type::Int64 | Type::Sfixed64, Raw::Number(n)) => json!((*n as i64).to_string()),
            (Type::Uint64 | Type::Fixed64, Raw::Number(n)) => json!(n.to_string()),
            (Type::Double, Raw::Number(n)) => json!(f64::from_bits(*n)),
            (Type::Float, Raw::Number(n)) => json!(f32::from_bits(*n as u32)),
            // The contract has no other kind; a test looks.
            _ => return None,
        })
    }
}

fn next<'a>(rest: &mut &'a [u8]) -> Option<(u32, Raw<'a>)> {
    let key = varint(rest)?;
    let raw = match key & 7 {
        0 => Raw::Number(varint(rest)?),
        1 => Raw::Number(fixed(rest, 8)?),
        5 => Raw::Number(fixed(rest, 4)?),
        2 => {
            let length = usize::try_from(varint(rest)?).ok()?;
            let (bytes, after) = rest.split_at_checked(length)?;
            *rest = after;
            Raw::Bytes(bytes)
        }
        _ => return None,
    };
    Some((u32::try_from(key >> 3).ok()?, raw))
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    prost::encoding::decode_varint(rest).ok()
}

fn fixed(rest: &mut &[u8], size: usize) -> Option<u64> {
    let (bytes, after) = rest.split_at_checked(size)?;
    *rest = after;
    Some(
        bytes
            .iter()
            .rev()
            .fold(0, |n, byte| n << 8 | u64::from(*byte)),
    )
}

fn camel(name: &str) -> String {
    let mut up = false;
    name.chars()
        .filter_map(|c| {
            if c == '_' {
                up = true;
                return None;
            }
            Some(if std::mem::take(&mut up) {
                c.to_ascii_uppercase()
            } else {
                c
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    #[test]
    fn names_are_camel_case_and_long_numbers_are_strings() {
        let task = pb::Task {
            task_id: "t".into(),
            state: pb::TaskState::Running.into(),
            cost_microdollars: 5,
            attempt: 2,
            tags: vec!["a".into(), "b".into()],
            create_time: Some(prost_types::Timestamp {
                seconds: 1,
                nanos: 500_000_000,
            }),
            ..Default::default()
        };

        assert_eq!(
            of("Task", &task),
            json!({
                "taskId": "t", "state": "TASK_STATE_RUNNING", "costMicrodollars": "5",
                "attempt": 2, "tags": ["a", "b"], "createTime": "1970-01-01T00:00:01.500Z",
            })
        );
    }

    #[test]
    fn a_negative_number_a_map_and_packed_enums_are_right() {
        let spec = pb::SubmitWorkflowRequest {
            arguments: [("k".to_owned(), "v".to_owned())].into(),
            ..Default::default()
        };
        assert_eq!(
            of("SubmitWorkflowRequest", &spec)["arguments"],
            json!({"k": "v"})
        );
        let filter = pb::TaskFilter {
            states: vec![1, 2],
            ..Default::default()
        };
        assert_eq!(
            of("TaskFilter", &filter)["states"],
            json!(["TASK_STATE_QUEUED", "TASK_STATE_RUNNING"])
        );
        let settings = pb::RunSettings {
            max_turns: Some(-3),
            ..Default::default()
        };
        assert_eq!(of("RunSettings", &settings)["maxTurns"], json!(-3));
    }

    #[test]
    fn every_kind_of_field_in_the_contract_can_be_shown() {
        let schema = Schema::get();
        for (name, fields) in &schema.messages {
            for field in fields.values() {
                let ours = name.starts_with(".claudepool.");
                let odd = [Type::Bytes, Type::Group, Type::Sint32, Type::Sint64];
                assert!(
                    !ours || !odd.contains(&field.r#type()),
                    "{name}.{}",
                    field.name()
                );
            }
        }
    }
}
