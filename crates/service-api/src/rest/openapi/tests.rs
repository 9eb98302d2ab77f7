use std::collections::BTreeSet;

use http::Method;

use super::*;
use crate::rest::route::{Call, Resolved, resolve};

/// The calls of our own API as the router's source names them.
fn calls_of_the_router() -> BTreeSet<String> {
    let source = include_str!("../route.rs");
    let begin = source.find("enum HoldfastCall {").unwrap();
    let body = source[begin..]
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with('}'));
    let names = body
        .map(|line| line.trim().trim_end_matches(','))
        .filter(|line| !line.starts_with("///"));
    names.map(|line| line.split('(').next().unwrap().to_owned()).collect()
}

#[test]
fn each_call_is_an_operation_and_each_operation_a_call() {
    let mut found = BTreeSet::new();
    for operation in OPERATIONS {
        let path = format!("{BASE}{}", operation.path);
        let segments: Vec<String> = path
            .split('/')
            .skip(1)
            .map(|part| part.replace(['{', '}'], ""))
            .collect();
        let method = Method::from_bytes(operation.method.as_bytes()).unwrap();
        match resolve(&method, &segments) {
            Resolved::Call(Call::Holdfast(call)) => {
                let name = format!("{call:?}");
                found.insert(name.split('(').next().unwrap().to_owned());
            }
            other => panic!("{} {path} is {other:?}", operation.method),
        }
    }
    assert_eq!(found, calls_of_the_router());
}

#[test]
fn the_document_is_complete() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.len() > 30, "the schemas are not JSON");
    let mut ids = BTreeSet::new();
    for operation in OPERATIONS {
        assert!(ids.insert(operation.id), "{} twice", operation.id);
        for (name, schema) in operation.query {
            assert!(serde_json::from_str::<Value>(schema).is_ok(), "{name}");
        }
    }
    let text = document.to_string();
    let mut used = BTreeSet::new();
    for part in text.split("#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(schemas.contains_key(name), "there is no schema {name}");
        used.insert(name);
    }
    let unused: Vec<_> = schemas.keys().filter(|name| !used.contains(name.as_str())).collect();
    assert_eq!(unused, Vec::<&String>::new());
}
