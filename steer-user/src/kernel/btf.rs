//! Field offsets from BTF, the kernel's description of its own types.
//!
//! This is a parser of steer's own. The crates that expose members are slow and large on a whole
//! kernel (200 ms and 85 MB), or not under steer's licence. This parser keeps the file's bytes as
//! they are, and where each type begins. It looks at members only when it is asked for one.
//!
//! Format: the kernel's `Documentation/bpf/btf.rst`.

use std::{collections::HashMap, ops::Range};

const MAGIC: u16 = 0xeb9f;
const TYPE_SIZE: usize = 12;
const MEMBER_SIZE: usize = 12;

/// How many types can lead from one to the next. More than this is a loop in a damaged file.
const MAX_DEPTH: u32 = 32;

/// How many structs and unions a search looks at. The largest struct of Linux has some dozens of
/// anonymous ones in it.
const MAX_SEARCHED: usize = 256;

/// Why a BTF file can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BtfError {
    /// The file doesn't begin like BTF in this machine's byte order.
    #[error("the file is not BTF")]
    Magic,
    /// A header or a type reaches beyond the file.
    #[error("the file is cut short at byte {0}")]
    Truncated(usize),
    /// The size of a type of this kind isn't known, so the types behind it can't be found.
    #[error("type {id} is of the unknown kind {kind}")]
    Kind {
        /// The type's number.
        id: u32,
        /// Its kind.
        kind: u32,
    },
}

/// The types of one BTF file.
#[derive(Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    strings: Range<usize>,
    /// Where type `id` begins. Type 0 is `void`, which isn't in the file.
    types: Vec<u32>,
    /// Structs by name.
    structs: HashMap<Vec<u8>, u32>,
}

/// The three fixed words of a type.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    info: u32,
    /// The type that this one leads to. For a type that leads nowhere, its size.
    target: u32,
}

impl Type {
    fn kind(self) -> u32 {
        (self.info >> 24) & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }

    fn has_bitfields(self) -> bool {
        self.info >> 31 != 0
    }
}

mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const PTR: u32 = 2;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const FWD: u32 = 7;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const VOLATILE: u32 = 9;
    pub(super) const CONST: u32 = 10;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC: u32 = 12;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const FLOAT: u32 = 16;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

impl Btf {
    /// Reads a BTF file in this machine's byte order, as `/sys/kernel/btf/vmlinux` is.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        if bytes.get(..2) != Some(&MAGIC.to_ne_bytes()) {
            return Err(BtfError::Magic);
        }
        let header = word(&bytes, 4)? as usize;
        let section = |offset: usize, length: usize| -> Result<Range<usize>, BtfError> {
            let start = header.saturating_add(word(&bytes, offset)? as usize);
            let end = start.saturating_add(word(&bytes, length)? as usize);
            match bytes.get(start..end) {
                Some(_) => Ok(start..end),
                None => Err(BtfError::Truncated(bytes.len())),
            }
        };
        let type_section = section(8, 12)?;
        let strings = section(16, 20)?;
        let mut btf = Self {
            bytes,
            strings,
            types: vec![0],
            structs: HashMap::new(),
        };
        btf.index(type_section)?;
        Ok(btf)
    }

    /// The byte offset of the field that `path` names, from the start of `struct name`. Members
    /// of anonymous structs and unions are found as in C. None if the kernel has no such struct
    /// or field, or if the field is a bit field.
    pub fn field(&self, name: &str, path: &[&str]) -> Option<u32> {
        let mut id = *self.structs.get(name.as_bytes())?;
        let mut bits = 0_u32;
        for member in path {
            let (offset, member_type) = self.member(id, member, &mut Vec::new())?;
            bits = bits.checked_add(offset)?;
            id = member_type;
        }
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Notes where each type begins, and the names of structs.
    fn index(&mut self, section: Range<usize>) -> Result<(), BtfError> {
        let mut at = section.start;
        while at < section.end {
            let id = self.types.len() as u32;
            let found = self.type_at(at)?;
            if found.kind() == kind::STRUCT
                && let Some(name) = self.string(found.name)
                && !name.is_empty()
            {
                self.structs.entry(name.to_vec()).or_insert(id);
            }
            self.types.push(at as u32);
            let extra = match found.kind() {
                kind::INT | kind::VAR | kind::DECL_TAG => 4,
                kind::ARRAY => 12,
                kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => 12 * found.count(),
                kind::ENUM | kind::FUNC_PROTO => 8 * found.count(),
                kind::PTR
                | kind::FWD
                | kind::TYPEDEF
                | kind::VOLATILE
                | kind::CONST
                | kind::RESTRICT
                | kind::FUNC
                | kind::FLOAT
                | kind::TYPE_TAG => 0,
                kind => return Err(BtfError::Kind { id, kind }),
            };
            at += TYPE_SIZE + extra;
        }
        Ok(())
    }

    /// The bit offset and the type of the member `name`, in the struct or union that `id` leads
    /// to. What is in `searched` isn't searched again.
    fn member(&self, id: u32, name: &str, searched: &mut Vec<usize>) -> Option<(u32, u32)> {
        let container = self.container(id)?;
        // In a damaged file, a struct may have members of its own type, which would be searched
        // for ever.
        if searched.len() > MAX_SEARCHED || searched.contains(&container.at) {
            return None;
        }
        searched.push(container.at);
        for index in 0..container.count() {
            let at = container.at + TYPE_SIZE + index * MEMBER_SIZE;
            let member_name = self.string(word(&self.bytes, at).ok()?)?;
            let member_type = word(&self.bytes, at + 4).ok()?;
            let place = word(&self.bytes, at + 8).ok()?;
            let (offset, bitfield) = if container.has_bitfields() {
                (place & 0x00ff_ffff, place >> 24 != 0)
            } else {
                (place, false)
            };
            if member_name == name.as_bytes() {
                return (!bitfield).then_some((offset, member_type));
            }
            if member_name.is_empty()
                && !bitfield
                && let Some((inner, inner_type)) = self.member(member_type, name, searched)
            {
                return Some((offset.checked_add(inner)?, inner_type));
            }
        }
        None
    }

    /// The struct or union that type definitions and qualifiers lead to. A pointer isn't
    /// followed.
    fn container(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            let at = *self.types.get(id as usize).filter(|at| **at != 0)?;
            let found = self.type_at(at as usize).ok()?;
            match found.kind() {
                kind::STRUCT | kind::UNION => return Some(found),
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG => {
                    id = found.target;
                }
                _ => return None,
            }
        }
        None
    }

    fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        Ok(Type {
            at,
            name: word(&self.bytes, at)?,
            info: word(&self.bytes, at + 4)?,
            target: word(&self.bytes, at + 8)?,
        })
    }

    fn string(&self, offset: u32) -> Option<&[u8]> {
        let strings = self.bytes.get(self.strings.clone())?;
        let rest = strings.get(offset as usize..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        rest.get(..end)
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|word| u32::from_ne_bytes(*word))
        .ok_or(BtfError::Truncated(at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // struct outer { int a; struct { union { int b; inner_t c; }; }; int d:3; };
    // typedef const struct inner { int x; int y; } inner_t;
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0d\0inner\0x\0y\0inner_t\0";
        let name = |wanted: &str| -> u32 {
            let wanted = format!("\0{wanted}\0");
            let found = strings
                .windows(wanted.len())
                .position(|window| window == wanted.as_bytes());
            found.expect("a name of the sample") as u32 + 1
        };
        let info = |kind: u32, count: u32| (kind << 24) | count;
        let words = [
            // 1: int
            [name("int"), info(kind::INT, 0), 4].as_slice(),
            &[32],
            // 2: struct inner
            &[name("inner"), info(kind::STRUCT, 2), 8],
            &[name("x"), 1, 0, name("y"), 1, 32],
            // 3: const struct inner; 4: typedef inner_t
            &[0, info(kind::CONST, 0), 2],
            &[name("inner_t"), info(kind::TYPEDEF, 0), 3],
            // 5: the anonymous union; 6: the anonymous struct
            &[0, info(kind::UNION, 2), 8],
            &[name("b"), 1, 0, name("c"), 4, 0],
            &[0, info(kind::STRUCT, 1), 8],
            &[0, 5, 0],
            // 7: struct outer, with bit fields
            &[name("outer"), info(kind::STRUCT, 3) | 1 << 31, 16],
            &[name("a"), 1, 0, 0, 6, 64, name("d"), 1, (3 << 24) | 128],
        ]
        .concat();
        let types: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let header = [
            24,
            0,
            types.len() as u32,
            types.len() as u32,
            strings.len() as u32,
        ];
        bytes.extend(header.iter().flat_map(|word: &u32| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn members_are_found_through_anonymous_and_named_types() {
        let btf = Btf::parse(sample()).expect("the sample");
        assert_eq!(btf.field("outer", &["a"]), Some(0));
        assert_eq!(btf.field("outer", &["b"]), Some(8));
        assert_eq!(btf.field("outer", &["c"]), Some(8));
        assert_eq!(btf.field("outer", &["c", "y"]), Some(12));
        assert_eq!(btf.field("inner", &["y"]), Some(4));
    }

    #[test]
    fn what_is_not_there_is_none() {
        let btf = Btf::parse(sample()).expect("the sample");
        assert_eq!(btf.field("outer", &["d"]), None, "a bit field");
        assert_eq!(btf.field("outer", &["y"]), None, "c is named");
        assert_eq!(btf.field("outer", &["a", "x"]), None, "a is no struct");
        assert_eq!(btf.field("inner_t", &["x"]), None, "a typedef is no struct");
        assert_eq!(btf.field("nothing", &["x"]), None);
    }

    /// A struct with eight anonymous members of its own kind, and one that has a name.
    #[test]
    fn a_struct_in_itself_is_searched_once() {
        let strings = b"\0outer\0last\0";
        let anonymous = [0, 1, 0].repeat(8);
        let words = [
            [1, kind::STRUCT << 24 | 9, 8].as_slice(),
            &anonymous,
            &[7, 0, 64],
        ]
        .concat();
        let types: Vec<u8> = words
            .iter()
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let length = types.len() as u32;
        let header = [24, 0, length, length, strings.len() as u32];
        bytes.extend(header.iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        let btf = Btf::parse(bytes).expect("a struct");
        assert_eq!(btf.field("outer", &["last"]), Some(8));
        assert_eq!(btf.field("outer", &["first"]), None);
    }

    #[test]
    fn damage_is_an_error() {
        assert_eq!(Btf::parse(Vec::new()).err(), Some(BtfError::Magic));
        let short = sample()[..100].to_vec();
        assert_eq!(Btf::parse(short).err(), Some(BtfError::Truncated(100)));
        let mut unknown = sample();
        unknown[24 + 7] = 0x1f;
        let error = Btf::parse(unknown).err();
        assert_eq!(error, Some(BtfError::Kind { id: 1, kind: 0x1f }));
    }

    proptest! {
        #[test]
        fn no_damage_panics(at in 0..400_usize, value in any::<u8>(), cut in 0..400_usize) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            if let Ok(btf) = Btf::parse(bytes) {
                for name in ["outer", "inner"] {
                    for member in ["a", "b", "c", "d", "x"] {
                        let _offset = btf.field(name, &[member, "y"]);
                    }
                }
            }
        }
    }
}
