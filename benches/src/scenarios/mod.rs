//! The comparisons.

mod broadcast; // one chunk to many nodes
mod catalog; // small values, in this process
mod http; // small values over HTTP
mod get; // a chunk into a program's own memory
mod put; // a file onto disk
mod stream; // one chunk to one node

pub(crate) mod fetching; // what Shoal does in `stream` and `broadcast`
mod in_turn; // contenders that are there for their own turn only
pub(crate) mod linked; // what holds where there are links

use broadcast::{Broadcast, Over};

use crate::failure::Failure;
use crate::scenario::Scenario;

/// How many receivers the broadcasts have.
const RECEIVERS: [usize; 3] = [4, 8, 16];
/// How many they may have on one host, without TCP between them.
const RECEIVERS_MAX: usize = 32;

/// All scenarios, in the order in which they run.
pub fn all() -> Vec<Box<dyn Scenario>> {
    let mut all: Vec<Box<dyn Scenario>> = vec![Box::new(stream::Stream)];
    for over in [Over::Host, Over::Loopback, Over::Links] {
        let most = (over == Over::Host).then_some(RECEIVERS_MAX);
        let broadcast = |receivers| Box::new(Broadcast { receivers, over }) as Box<dyn Scenario>;
        all.extend(RECEIVERS.into_iter().chain(most).map(broadcast));
    }
    all.push(Box::new(put::Put));
    all.push(Box::new(get::Get));
    all.extend(catalog::all());
    all.extend(http::all());
    all
}

/// The scenarios that are named so, or whose names begin so up to a `-`; all when nothing is named.
pub fn named(names: &[String]) -> Result<Vec<Box<dyn Scenario>>, Failure> {
    let fits = |scenario: &str, name: &str| {
        scenario.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    for name in names {
        if !all().iter().any(|scenario| fits(&scenario.name(), name)) {
            let known: Vec<String> = all().iter().map(|scenario| scenario.name()).collect();
            return Err(Failure::Unknown { name: name.clone(), known: known.join(", ") });
        }
    }
    let wanted = |scenario: &str| names.is_empty() || names.iter().any(|name| fits(scenario, name));
    Ok(all().into_iter().filter(|scenario| wanted(&scenario.name())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(wanted: &[&str]) -> Vec<String> {
        let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
        named(&wanted).unwrap().iter().map(|scenario| scenario.name()).collect()
    }

    #[test]
    fn scenarios_are_found_by_name_and_by_kind() {
        let links = ["broadcast-links-4", "broadcast-links-8", "broadcast-links-16"];
        assert_eq!(names(&["broadcast-links"]), links);
        let host = ["broadcast-4", "broadcast-8", "broadcast-16", "broadcast-32"];
        assert_eq!(names(&["broadcast"])[..4], host);
        assert_eq!(names(&["broadcast"])[7..], links);
        assert_eq!(names(&["get", "broadcast-8"]), ["broadcast-8", "get"]);
        assert_eq!(names(&[]).len(), all().len());
        assert!(named(&["broad".into()]).is_err());
    }
}
