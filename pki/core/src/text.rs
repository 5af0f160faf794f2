//! Names: text forms that are the same in commands, key files and messages.

/// Nothing of the kind asked for is written like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown name {0:?}")]
pub struct UnknownName(pub(crate) String);

/// Text forms of an enum with a `NAMES` table, in `Display`, `FromStr` and serde alike.
macro_rules! named {
    ($type:ty) => {
        impl core::fmt::Display for $type {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                let (_, name) = Self::NAMES
                    .iter()
                    .find(|(value, _)| value == self)
                    .expect("NAMES has every variant");
                f.pad(name)
            }
        }

        impl core::str::FromStr for $type {
            type Err = crate::text::UnknownName;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let found = Self::NAMES.iter().find(|(_, name)| *name == text);
                found
                    .map(|(value, _)| *value)
                    .ok_or_else(|| crate::text::UnknownName(text.into()))
            }
        }

        $crate::text::as_text!($type);
    };
}

/// serde by way of `Display` and `FromStr`.
macro_rules! as_text {
    ($type:ty) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use {as_text, named};
