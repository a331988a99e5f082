//! How much there may be, and what goes first.

use serde_json::{Value, json};
use suites::{Http, Setup};

fn stats(http: &Http) -> Value {
    http.get("/stats").is(200).value()["stats"].clone()
}

fn put(http: &Http, key: &str, length: usize, persist: bool) -> u16 {
    let body = json!({"key": key, "value": "v".repeat(length), "persist": persist});
    http.json("POST", "/write", &body).status
}

fn found(http: &Http, key: &str) -> bool {
    http.get(&format!("/read/{key}")).is(200).value()["found"] == json!(true)
}

fn limit(http: &Http, bytes: u64) {
    let set = http.ask("POST", &format!("/set_max_memory/{bytes}"), None).is(200).value();
    assert_eq!(set, json!({"status": "success", "max_memory": bytes}));
}

/// Keys of one byte and values of so many bytes that each counts 1000.
const VALUE: usize = 997;

#[test]
fn what_was_used_least_recently_goes_first() {
    for cores in ["1", "3"] {
        let node = Setup::named("n1").flag("--cores", cores).start();
        let http = Http::at(&node);
        limit(&http, 4000);
        for key in ["a", "b", "c", "d"] {
            assert_eq!(put(&http, key, VALUE, false), 200);
        }
        let full = stats(&http);
        assert_eq!((&full["current_size"], &full["max_size"]), (&json!(4000), &json!(4000)));
        assert_eq!((&full["usage_percent"], &full["volatile_keys"]), (&json!(100.0), &json!(4)));
        assert!(full["memory_info"]["total"].as_u64().unwrap() > 0);
        assert!(found(&http, "a"));
        assert_eq!(put(&http, "e", VALUE, false), 200);
        let there = ["a", "b", "c", "d", "e"].map(|key| found(&http, key));
        assert_eq!(there, [true, false, true, true, true]);
        assert_eq!(stats(&http)["current_size"], json!(4000));
        // A lower limit takes away down to it; what was read just now stays.
        found(&http, "c");
        limit(&http, 1500);
        assert_eq!(["a", "c", "d", "e"].map(|key| found(&http, key)), [false, true, false, false]);
        assert_eq!(stats(&http)["current_size"], json!(1000));
    }
}

#[test]
fn what_is_kept_for_good_stays_and_full_is_full() {
    let node = Setup::named("n1").flag("--cores", "2").start();
    let http = Http::at(&node);
    limit(&http, 3000);
    assert_eq!(put(&http, "p", VALUE, true), 200);
    assert_eq!(put(&http, "q", VALUE, true), 200);
    assert_eq!(put(&http, "v", VALUE, false), 200);
    // A failed overwrite keeps the old value, and what cannot fit displaces nothing.
    for persist in [true, false] {
        assert_eq!(put(&http, "p", 3 * VALUE, persist), 507);
        assert_eq!(put(&http, "w", 2 * VALUE, persist), 507);
        let refused =
            http.json("POST", "/write", &json!({"key": "w", "value": "v".repeat(5000), "persist": persist}));
        assert_eq!(refused.is(507).value(), json!({"detail": "Insufficient storage space"}));
    }
    assert_eq!(put(&http, "v", 3 * VALUE, false), 507);
    assert_eq!(["p", "q", "v", "w"].map(|key| found(&http, key)), [true, true, true, false]);
    assert_eq!(put(&http, "w", VALUE, true), 200, "what is volatile makes room");
    assert!(!found(&http, "v"));
    limit(&http, 0);
    assert_eq!(["p", "q", "w"].map(|key| found(&http, key)), [true, true, true]);
    assert_eq!(put(&http, "x", 1, false), 507);
    let kept = stats(&http);
    assert_eq!((&kept["persistent_keys"], &kept["volatile_keys"]), (&json!(3), &json!(0)));
    assert_eq!(kept["current_size"], json!(3000));
    http.delete("/release/p").is(200);
    assert_eq!(stats(&http)["current_size"], json!(2000));
}

#[test]
fn large_values_make_room_for_each_other() {
    let node = Setup::named("n1").memory("64MB").start();
    let http = Http::at(&node);
    for round in 0..12 {
        assert_eq!(put(&http, &format!("k{round}"), 20 << 20, false), 200, "{round}");
        assert!(found(&http, &format!("k{round}")));
    }
    let there = (0..12).filter(|round| found(&http, &format!("k{round}"))).count();
    assert!((1..=3).contains(&there), "{there}");
    assert_eq!(put(&http, "k", 100 << 20, false), 507);
    assert_eq!(put(&http, "k", 100 << 20, true), 507);
}
