//! Sprig's functions on maps. Where Go's order is random, ours is the keys'.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::list::empty;
use super::{Answer, Func, Ty, func, rest, string, strval};
use crate::heap::{Heap, MAX_DEPTH, Of, Val};

const D: &[Ty] = &[Ty::Dict];
const DS: &[Ty] = &[Ty::Dict, Ty::Str];

pub(super) static TABLE: &[Func] = &[
    rest("dict", &[], Ty::Any, dict),
    func("get", DS, |heap, args| {
        let found = entries(heap, &args[0]).and_then(|map| map.get(&*string(args, 1)).cloned());
        Ok(found.unwrap_or_else(|| Val::Str("".into())))
    }),
    func("set", &[Ty::Dict, Ty::Str, Ty::Any], |heap, args| {
        let Val::Map(at) = args[0] else {
            return Err("assignment to entry in nil map".to_owned());
        };
        heap.spend(1)?;
        heap.map_at_mut(at).items.insert(string(args, 1), args[2].clone());
        Ok(args[0].clone())
    }),
    func("unset", DS, |heap, args| {
        if let Val::Map(at) = args[0] {
            heap.map_at_mut(at).items.remove(&*string(args, 1));
        }
        Ok(args[0].clone())
    }),
    func("hasKey", DS, |heap, args| {
        let map = entries(heap, &args[0]);
        Ok(Val::Bool(map.is_some_and(|map| map.contains_key(&*string(args, 1)))))
    }),
    rest("pluck", &[Ty::Str], Ty::Dict, |heap, args| {
        let key = string(args, 0);
        let maps = args[1..].iter().filter_map(|map| entries(heap, map));
        let found = maps.filter_map(|map| map.get(&key).cloned()).collect();
        heap.list(Of::Anything, found)
    }),
    rest("keys", &[], Ty::Dict, |heap, args| {
        let maps = args.iter().filter_map(|map| entries(heap, map));
        let keys: Vec<_> = maps.flat_map(|map| map.keys().cloned()).collect();
        heap.strings(keys)
    }),
    func("values", D, |heap, args| {
        let values = entries(heap, &args[0]).map(|map| map.values().cloned().collect());
        heap.list(Of::Anything, values.unwrap_or_default())
    }),
    rest("pick", D, Ty::Str, |heap, args| chosen(heap, args, true)),
    rest("omit", D, Ty::Str, |heap, args| chosen(heap, args, false)),
    rest("merge", D, Ty::Dict, |heap, args| merge_all(heap, args, false)),
    rest("mustMerge", D, Ty::Dict, |heap, args| merge_all(heap, args, false)),
    rest("mergeOverwrite", D, Ty::Dict, |heap, args| merge_all(heap, args, true)),
    rest("mustMergeOverwrite", D, Ty::Dict, |heap, args| merge_all(heap, args, true)),
    rest("dig", &[], Ty::Any, dig),
];

type Entries = BTreeMap<Rc<str>, Val>;

fn entries<'a>(heap: &'a Heap, value: &Val) -> Option<&'a Entries> {
    match value {
        Val::Map(at) => Some(&heap.map_at(*at).items),
        _ => None,
    }
}

fn dict(heap: &mut Heap, args: &[Val]) -> Answer {
    let mut map = Entries::new();
    for pair in args.chunks(2) {
        let key = strval(heap, &pair[0])?;
        let value = pair.get(1).cloned().unwrap_or_else(|| Val::Str("".into()));
        map.insert(key, value);
    }
    heap.map(map)
}

fn chosen(heap: &mut Heap, args: &[Val], picks: bool) -> Answer {
    let keys: Vec<Rc<str>> = (1..args.len()).map(|at| string(args, at)).collect();
    let map = entries(heap, &args[0]).cloned().unwrap_or_default();
    heap.spend(map.len().saturating_mul(keys.len() + 1))?;
    let kept = map.into_iter().filter(|(key, _)| keys.contains(key) == picks).collect();
    heap.map(kept)
}

fn merge_all(heap: &mut Heap, args: &[Val], overwrites: bool) -> Answer {
    let Val::Map(into) = args[0] else {
        return Err("assignment to entry in nil map".to_owned());
    };
    for from in &args[1..] {
        if let Val::Map(from) = *from {
            merge(heap, into, from, overwrites, 0)?;
        }
    }
    Ok(args[0].clone())
}

/// Fills what is missing or empty in one map with what another has, or overwrites it.
fn merge(
    heap: &mut Heap,
    into: usize,
    from: usize,
    overwrites: bool,
    depth: usize,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("a value is nested too deeply".to_owned());
    }
    let source = heap.map_at(from).items.clone();
    heap.spend(source.len() + 1)?;
    for (key, value) in source {
        let old = heap.map_at(into).items.get(&key).cloned();
        if let (Some(Val::Map(old)), Val::Map(new)) = (&old, &value) {
            merge(heap, *old, *new, overwrites, depth + 1)?;
            continue;
        }
        let takes = match old {
            None => true,
            Some(old) => overwrites || empty(heap, &old),
        };
        if takes {
            heap.map_at_mut(into).items.insert(key, value);
        }
    }
    Ok(())
}

fn dig(heap: &mut Heap, args: &[Val]) -> Answer {
    let [keys @ .., default, dict] = args else {
        return Err("dig needs at least three arguments".to_owned());
    };
    if keys.is_empty() {
        return Err("dig needs at least three arguments".to_owned());
    }
    let mut at = dict.clone();
    for key in keys {
        let Val::Map(map) = &at else {
            let got = heap.type_name(&at);
            return Err(format!(
                "interface conversion: interface {{}} is {got}, not map[string]interface {{}}"
            ));
        };
        let Val::Str(key) = key else {
            let got = heap.type_name(key);
            return Err(format!("interface conversion: interface {{}} is {got}, not string"));
        };
        match heap.map_at(*map).items.get(key) {
            Some(found) => at = found.clone(),
            None => return Ok(default.clone()),
        }
    }
    Ok(at)
}
