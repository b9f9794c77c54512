//! Measuring through our reflectors with tools that others wrote.

use std::process::Command;

use crate::deployment::Deployment;

#[test]
fn a_discovery_by_coturn_finds_the_loopback_to_be_no_nat() {
    let deployment = Deployment::embedded();
    let [first, second] = deployment.bound().map(|address| address.to_string());
    let output = Command::new("turnutils_natdiscovery").args(["-m", "-f", &first]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "NAT with Endpoint Independent Mapping!",
        "NAT with Endpoint Independent Filtering!",
        "No ALG: Mapped == XOR-Mapped",
        &format!("Response origin: : {first}:3478"),
        &format!("Other addr: : {second}:3479"),
        &format!("Response origin: : {second}:3479"),
    ] {
        assert!(text.contains(expected), "{expected} is missing in {text}");
    }
}
