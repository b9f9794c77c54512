//! The Kubernetes manifests: rendered, checked against the types of the API, and against each other and the configuration.
//!
//! A manifest is read into the API's own type and written again: a field that the API does not know, or that has the wrong
//! shape, or that is required and missing, shows as a difference. No cluster and no tool is needed.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    batch::v1::Job,
    core::v1::{Namespace, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

#[test]
fn every_manifest_is_of_the_shape_that_the_api_takes() {
    for manifest in render() {
        let kind = text(&manifest, "/kind");
        match (text(&manifest, "/apiVersion"), kind) {
            ("v1", "Namespace") => assert_shape::<Namespace>(&manifest),
            ("v1", "Service") => assert_shape::<Service>(&manifest),
            ("v1", "ServiceAccount") => assert_shape::<ServiceAccount>(&manifest),
            ("apps/v1", "Deployment") => assert_shape::<Deployment>(&manifest),
            ("apps/v1", "DaemonSet") => assert_shape::<DaemonSet>(&manifest),
            ("batch/v1", "Job") => assert_shape::<Job>(&manifest),
            ("policy/v1", "PodDisruptionBudget") => assert_shape::<PodDisruptionBudget>(&manifest),
            ("networking.k8s.io/v1", "NetworkPolicy") => assert_shape::<NetworkPolicy>(&manifest),
            (version, kind) => panic!("{version} {kind} is not checked yet: add its type"),
        }
    }
}

#[test]
#[should_panic(expected = "replicaz")]
fn a_field_that_the_api_does_not_know_is_found() {
    let mut manifest = render().into_iter().find(|manifest| manifest["kind"] == "Deployment").unwrap();
    manifest["spec"]["replicaz"] = 2.into();
    assert_shape::<Deployment>(&manifest);
}

#[test]
fn every_file_is_rendered_and_every_object_is_one() {
    let base = k8s().join("base");
    let files: BTreeSet<String> = fs::read_dir(&base)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "kustomization.yaml")
        .collect();
    let listed: BTreeSet<String> =
        list(&kustomization(), "/resources").map(|name| name.as_str().unwrap().to_owned()).collect();
    assert_eq!(files, listed);

    let manifests = render();
    let names: BTreeSet<_> = manifests.iter().map(identity).collect();
    assert_eq!(names.len(), manifests.len(), "{names:?}");
}

#[test]
fn every_role_has_a_workload_with_probes_and_a_budget() {
    let manifests = render();
    for role in ["gateway", "auth", "network", "rendezvous", "relay", "admin"] {
        let workload =
            workloads(&manifests).find(|workload| name(workload) == role).unwrap_or_else(|| panic!("no {role}"));
        assert_eq!(container(workload)["args"][0], role);
        assert_probes(workload);
        let budget = manifests
            .iter()
            .find(|manifest| manifest["kind"] == "PodDisruptionBudget" && name(manifest) == role)
            .unwrap_or_else(|| panic!("{role} has no disruption budget"));
        // Only what has a scale can be counted from above.
        let bound = if workload["kind"] == "DaemonSet" { "minAvailable" } else { "maxUnavailable" };
        assert_eq!(budget["spec"][bound], 1, "{role}");
    }
    let migrate = manifests.iter().find(|manifest| manifest["kind"] == "Job").unwrap();
    assert_eq!(container(migrate)["args"][0], "migrate");
}

#[test]
#[should_panic(expected = "readinessProbe")]
fn a_missing_probe_is_found() {
    let mut manifest = render().into_iter().find(|manifest| manifest["kind"] == "Deployment").unwrap();
    let container = manifest.pointer_mut("/spec/template/spec/containers/0").unwrap();
    container.as_object_mut().unwrap().remove("readinessProbe");
    assert_probes(&manifest);
}

#[test]
fn each_role_sees_its_own_secrets_only() {
    let expected: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("gateway", ["server.key", "tls.crt", "tls.key"].as_slice()),
        ("auth", &["accounts.key"]),
        ("network", &["membership.key", "opaque.setup"]),
        ("rendezvous", &["observations.key", "tickets.key"]),
        ("relay", &["observations.key", "tickets.key", "tls.crt", "tls.key"]),
        ("admin", &["operator.token", "webhooks.key"]),
        ("migrate", &[]),
    ]);
    for workload in workloads(&render()) {
        let volumes = || list(workload, "/spec/template/spec/volumes");
        let mounted: Vec<_> = volumes()
            .filter(|volume| volume["secret"]["secretName"] == "buri-secrets")
            .flat_map(|volume| values(volume, "/secret/items", "key"))
            .map(|key| key.as_str().unwrap())
            .collect();
        assert_eq!(mounted, expected[name(workload)], "{}", identity(workload));
        let signs = volumes().any(|volume| volume["secret"]["secretName"] == "buri-token-keys");
        assert_eq!(signs, name(workload) == "auth", "{}", identity(workload));
    }
}

#[test]
fn what_selects_pods_finds_some_with_the_ports_it_names() {
    let manifests = render();
    for manifest in &manifests {
        let (selector, ports) = match text(manifest, "/kind") {
            "Service" => ("/spec/selector", values(manifest, "/spec/ports", "targetPort")),
            "PodDisruptionBudget" => ("/spec/selector/matchLabels", Vec::new()),
            "Deployment" | "DaemonSet" => ("/spec/selector/matchLabels", Vec::new()),
            "NetworkPolicy" => {
                let ingress = list(manifest, "/spec/ingress").flat_map(|rule| values(rule, "/ports", "port"));
                ("/spec/podSelector/matchLabels", ingress.collect())
            }
            _ => continue,
        };
        let none = Value::Object(serde_json::Map::new());
        let selector = manifest.pointer(selector).unwrap_or(&none);
        let pods: Vec<_> = workloads(&manifests)
            .filter(|workload| workload["metadata"]["namespace"] == manifest["metadata"]["namespace"])
            .filter(|workload| includes(&workload["spec"]["template"]["metadata"]["labels"], selector))
            .collect();
        assert!(!pods.is_empty(), "{} selects nothing: {selector}", identity(manifest));
        for port in ports.iter().filter(|port| port.is_string()) {
            // A Job listens nowhere.
            for pod in pods.iter().filter(|pod| pod["kind"] != "Job") {
                let named = values(container(pod), "/ports", "name");
                assert!(named.contains(port), "{}: {} has no port {port}", identity(manifest), name(pod));
            }
        }
    }
}

#[test]
fn pods_are_restricted_wherever_their_namespace_says_so() {
    let manifests = render();
    let restricted: Vec<_> = manifests
        .iter()
        .filter(|manifest| manifest["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted")
        .map(name)
        .collect();
    assert!(!restricted.is_empty());
    for workload in workloads(&manifests) {
        let (pod, container) = (&workload["spec"]["template"]["spec"], container(workload));
        let who = identity(workload);
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{who}");
        assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false, "{who}");
        assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{who}");
        assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{who}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{who}");
        assert!(container["resources"]["limits"]["memory"].is_string(), "{who}");
        if restricted.contains(&text(workload, "/metadata/namespace")) {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{who}");
            assert!(pod["hostNetwork"].is_null(), "{who}");
            assert!(container["securityContext"]["capabilities"]["add"].is_null(), "{who}");
        }
    }
}

#[test]
fn what_a_pod_uses_is_there() {
    let manifests = render();
    let accounts: BTreeSet<_> =
        manifests.iter().filter(|manifest| manifest["kind"] == "ServiceAccount").map(identity).collect();
    for workload in workloads(&manifests) {
        let pod = &workload["spec"]["template"]["spec"];
        let account =
            format!("{}/ServiceAccount/{}", text(workload, "/metadata/namespace"), text(pod, "/serviceAccountName"));
        assert!(accounts.contains(&account), "{account}");
        let volumes: BTreeSet<_> = values(pod, "/volumes", "name").into_iter().map(Value::to_string).collect();
        let mounted: BTreeSet<_> =
            values(container(workload), "/volumeMounts", "name").into_iter().map(Value::to_string).collect();
        assert_eq!(volumes, mounted, "{}", identity(workload));
        let image = text(container(workload), "/image");
        assert!(image.split_once(':').is_some_and(|(_, tag)| tag == env!("CARGO_PKG_VERSION")), "{image}");
    }
}

#[test]
fn the_example_configuration_is_valid_and_listens_where_the_pods_say() {
    let example = k8s().join("config.example.toml");
    let checked =
        Command::new(env!("CARGO_BIN_EXE_mediator")).args(["config", "check", "--config"]).arg(&example).output();
    let checked = checked.unwrap();
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let config: toml::Value = toml::from_str(&fs::read_to_string(example).unwrap()).unwrap();
    let of = |listen: &toml::Value| port(listen.as_array().map_or(listen, |all| &all[0]).as_str().unwrap());
    let listens = |part: &str, key: &str| of(&config[part][key]);
    let expected = BTreeMap::from([
        ("ops", listens("ops", "listen")),
        ("control", listens("gateway", "listen")),
        ("web", listens("gateway", "listen_web")),
        ("relay", listens("relay", "listen")),
        ("relay-streams", of(&config["relay"]["streams"]["listen"])),
        ("api", listens("admin", "listen")),
        ("stun", 3478),
        ("stun-alt", 3479),
    ]);
    for workload in workloads(&render()) {
        for declared in list(container(workload), "/ports") {
            let name = text(declared, "/name");
            assert_eq!(declared["containerPort"], expected[name], "{}: {name}", identity(workload));
        }
    }
}

#[test]
fn kubectl_renders_what_is_checked_here() {
    let output = Command::new("kubectl").arg("kustomize").arg(k8s().join("base")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs = by_identity(documents(&String::from_utf8(output.stdout).unwrap()));
    let ours = by_identity(render());
    assert_eq!(theirs, ours);
}

/// The objects of the base, as `kubectl kustomize` makes them of this subset: `resources` and `images`.
fn render() -> Vec<Value> {
    let kustomization = kustomization();
    let known = ["apiVersion", "kind", "resources", "images"];
    let keys = kustomization.as_object().unwrap().keys();
    assert!(keys.clone().all(|key| known.contains(&key.as_str())), "render() does not know all of {keys:?}");
    let files = list(&kustomization, "/resources").map(|file| k8s().join("base").join(file.as_str().unwrap()));
    let mut manifests: Vec<_> = files.flat_map(|file| documents(&fs::read_to_string(file).unwrap())).collect();
    for manifest in &mut manifests {
        let Some(Value::Array(containers)) = manifest.pointer_mut("/spec/template/spec/containers") else { continue };
        for container in containers {
            let named = list(&kustomization, "/images").find(|image| image["name"] == container["image"]);
            if let Some(image) = named {
                container["image"] = format!("{}:{}", text(image, "/name"), text(image, "/newTag")).into();
            }
        }
    }
    manifests
}

fn assert_shape<T: DeserializeOwned + Serialize>(manifest: &Value) {
    let typed: T =
        serde_json::from_value(manifest.clone()).unwrap_or_else(|error| panic!("{}: {error}", identity(manifest)));
    assert_eq!(serde_json::to_value(typed).unwrap(), *manifest, "{}", identity(manifest));
}

fn assert_probes(workload: &Value) {
    for (probe, path) in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")] {
        let get = &container(workload)[probe]["httpGet"];
        assert_eq!((&get["path"], &get["port"]), (&path.into(), &"ops".into()), "{}: {probe}", identity(workload));
    }
}

fn documents(yaml: &str) -> Vec<Value> {
    // Kubernetes reads YAML 1.1, where a leading zero means octal.
    let options = serde_saphyr::options! { legacy_octal_numbers: true };
    serde_saphyr::from_multiple_with_options(yaml, options).unwrap()
}

fn kustomization() -> Value {
    documents(&fs::read_to_string(k8s().join("base/kustomization.yaml")).unwrap()).remove(0)
}

fn k8s() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../k8s")
}

fn workloads(manifests: &[Value]) -> impl Iterator<Item = &Value> {
    manifests.iter().filter(|manifest| matches!(text(manifest, "/kind"), "Deployment" | "DaemonSet" | "Job"))
}

fn container(workload: &Value) -> &Value {
    &workload["spec"]["template"]["spec"]["containers"][0]
}

fn by_identity(manifests: Vec<Value>) -> BTreeMap<String, Value> {
    manifests.into_iter().map(|manifest| (identity(&manifest), manifest)).collect()
}

fn identity(manifest: &Value) -> String {
    let namespace = manifest["metadata"]["namespace"].as_str().unwrap_or("-");
    format!("{namespace}/{}/{}", text(manifest, "/kind"), name(manifest))
}

fn name(manifest: &Value) -> &str {
    text(manifest, "/metadata/name")
}

#[track_caller]
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_else(|| panic!("no text at {pointer} in {value}"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The values of `key` in the objects of a list.
fn values<'a>(value: &'a Value, pointer: &str, key: &str) -> Vec<&'a Value> {
    list(value, pointer).filter_map(|item| item.get(key)).collect()
}

fn includes(labels: &Value, selector: &Value) -> bool {
    selector.as_object().is_some_and(|selector| selector.iter().all(|(key, value)| labels[key] == *value))
}

fn port(listen: &str) -> u16 {
    listen.rsplit_once(':').unwrap().1.parse().unwrap()
}
