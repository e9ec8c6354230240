//! The kernel's types.

use steer_common::offsets::MISSING;
use steer_user::kernel::{btf::Btf, offsets};

const STRUCT: u32 = 4;
const UNION: u32 = 5;
/// How many definitions and qualifiers are followed.
const DEPTH: u32 = 32;
/// How many structs and unions are searched for a member.
const SEARCHED: usize = 256;
/// How many structs, and how many members of each, are asked for.
const ASKED: usize = 16;

pub(crate) fn check(input: &[u8]) {
    let Ok(btf) = Btf::parse(input.to_vec()) else {
        return;
    };
    let found = offsets::of(&btf);
    let words: &[u32] = bytemuck::cast_slice(std::slice::from_ref(&found));
    // An offset is in bytes, of a place that is told in bits.
    assert!(words.iter().all(|word| *word == MISSING || *word < 1 << 29));

    let naive = Naive::read(input);
    let structs = naive.types.iter().filter(|one| one.kind == STRUCT);
    for one in structs.take(ASKED) {
        let Ok(name) = str::from_utf8(one.name) else {
            continue;
        };
        let first = naive.named(name);
        for member in first.iter().flat_map(|one| &one.members).take(ASKED) {
            let Ok(member) = str::from_utf8(member.name.unwrap_or_default()) else {
                continue;
            };
            if member.is_empty() {
                continue;
            }
            let place = first.and_then(|one| naive.place(one, member.as_bytes(), &mut Vec::new()));
            let expected = match place {
                Some(Place::Bits(bits)) if bits % 8 == 0 => Some(bits / 8),
                _ => None,
            };
            assert_eq!(btf.field(name, &[member]), expected, "{name}.{member}");
        }
    }
}

/// Where a member is.
enum Place {
    /// So many bits from the start.
    Bits(u32),
    /// Somewhere that has no address.
    Bitfield,
}

/// The same types, unpacked.
struct Naive<'a> {
    types: Vec<NaiveType<'a>>,
}

struct NaiveType<'a> {
    kind: u32,
    name: &'a [u8],
    target: u32,
    members: Vec<NaiveMember<'a>>,
}

struct NaiveMember<'a> {
    /// None where it is beyond the strings.
    name: Option<&'a [u8]>,
    id: u32,
    bits: u32,
    is_bitfield: bool,
}

impl<'a> Naive<'a> {
    /// Reads what steer's own parser has accepted.
    fn read(input: &'a [u8]) -> Self {
        let word = |at: usize| -> u32 {
            let bytes = input.get(at..at + 4).unwrap_or(&[0; 4]);
            u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let header = word(4) as usize;
        let start = header + word(8) as usize;
        let end = start + word(12) as usize;
        let strings = header + word(16) as usize;
        let strings = &input[strings..strings + word(20) as usize];
        let name = |offset: u32| -> Option<&'a [u8]> {
            let rest = strings.get(offset as usize..)?;
            let length = rest.iter().position(|byte| *byte == 0)?;
            Some(&rest[..length])
        };
        let mut types = Vec::new();
        let mut at = start;
        while at < end {
            let info = word(at + 4);
            let kind = (info >> 24) & 0x1f;
            let count = info as usize & 0xffff;
            let mut members = Vec::new();
            if kind == STRUCT || kind == UNION {
                for index in 0..count {
                    let at = at + 12 + 12 * index;
                    let place = word(at + 8);
                    let packed = info >> 31 != 0;
                    members.push(NaiveMember {
                        name: name(word(at)),
                        id: word(at + 4),
                        bits: if packed { place & 0xff_ffff } else { place },
                        is_bitfield: packed && place >> 24 != 0,
                    });
                }
            }
            types.push(NaiveType {
                kind,
                name: name(word(at)).unwrap_or_default(),
                target: word(at + 8),
                members,
            });
            let extra = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                _ => 0,
            };
            at += 12 + extra;
        }
        Self { types }
    }

    fn named(&self, name: &str) -> Option<&NaiveType<'a>> {
        let mut structs = self.types.iter().filter(|one| one.kind == STRUCT);
        structs.find(|one| one.name == name.as_bytes() && !name.is_empty())
    }

    /// The struct or union behind definitions and qualifiers.
    fn container(&self, id: u32) -> Option<&NaiveType<'a>> {
        let mut one = self.types.get((id as usize).checked_sub(1)?)?;
        for _ in 1..DEPTH {
            match one.kind {
                STRUCT | UNION => return Some(one),
                8..=11 | 18 => one = self.types.get((one.target as usize).checked_sub(1)?)?,
                _ => return None,
            }
        }
        matches!(one.kind, STRUCT | UNION).then_some(one)
    }

    /// Where a member is.
    fn place<'b>(
        &'b self,
        one: &'b NaiveType<'a>,
        name: &[u8],
        searched: &mut Vec<&'b NaiveType<'a>>,
    ) -> Option<Place> {
        if searched.len() > SEARCHED || searched.iter().any(|other| std::ptr::eq(*other, one)) {
            return None;
        }
        searched.push(one);
        for member in &one.members {
            let member_name = member.name?;
            if member_name == name {
                return Some(if member.is_bitfield {
                    Place::Bitfield
                } else {
                    Place::Bits(member.bits)
                });
            }
            if member_name.is_empty()
                && !member.is_bitfield
                && let Some(inner) = self.container(member.id)
                && let Some(Place::Bits(bits)) = self.place(inner, name, searched)
            {
                return member.bits.checked_add(bits).map(Place::Bits);
            }
        }
        None
    }
}
