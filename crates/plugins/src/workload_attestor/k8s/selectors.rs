//! What the selectors of pods, containers and other objects are, without their type.

use std::collections::BTreeSet;

use super::pods::{Container, Pod};
use super::reference::ObjectMetadata;
use crate::kube::Resource;

/// Of a pod.
pub(crate) fn of_pod(pod: &Pod) -> Vec<String> {
    let mut values = vec![
        format!("sa:{}", pod.service_account),
        format!("ns:{}", pod.namespace),
        format!("node-name:{}", pod.node),
        format!("pod-uid:{}", pod.uid),
        format!("pod-name:{}", pod.name),
        format!("pod-image-count:{}", pod.containers.len()),
        format!("pod-init-image-count:{}", pod.init_containers.len()),
    ];
    values.extend(images(&pod.containers).map(|image| format!("pod-image:{image}")));
    values.extend(images(&pod.init_containers).map(|image| format!("pod-init-image:{image}")));
    values.extend(pod.labels.iter().map(|(key, value)| format!("pod-label:{key}:{value}")));
    for owner in &pod.owners {
        values.push(format!("pod-owner:{}:{}", owner.kind, owner.name));
        values.push(format!("pod-owner-uid:{}:{}", owner.kind, owner.uid));
    }
    values
}

/// Of the container itself.
pub(crate) fn of_container(container: &Container) -> Vec<String> {
    let mut values = vec![format!("container-name:{}", container.name)];
    let images = images(std::slice::from_ref(container));
    values.extend(images.map(|image| format!("container-image:{image}")));
    values
}

/// The images by both of their names, each once: by tag, which is known before the image is there
/// and may be any of several, and by digest.
fn images(containers: &[Container]) -> impl Iterator<Item = &str> {
    let names: BTreeSet<&str> =
        containers.iter().flat_map(|it| [&*it.image_id, &*it.image]).collect();
    names.into_iter()
}

/// Of any other object; `group` is what the reference calls it, `core` for the core group.
pub(crate) fn of_object(
    plural: &str,
    group: &str,
    resource: &Resource,
    object: &ObjectMetadata,
) -> Vec<String> {
    let mut values = vec![
        format!("uid:{}", object.uid),
        format!("resource:{plural}.{group}"),
        format!("plural:{plural}"),
        format!("group:{group}"),
        format!("version:{}", resource.version),
        format!("apiVersion:{}", resource.api_version()),
        format!("kind:{}", resource.kind),
        format!("name:{}", object.name),
    ];
    if object.namespace.is_empty() {
        values.push(format!("key:{}", object.name));
    } else {
        values.push(format!("namespace:{}", object.namespace));
        values.push(format!("key:{}/{}", object.namespace, object.name));
    }
    values.extend(object.labels.iter().map(|(key, value)| format!("label:{key}:{value}")));
    for owner in &object.owners {
        let group = owner_group(&owner.api_version);
        let kind = &owner.kind;
        values.push(format!("owner-key:{group}/{kind}/{}", owner.name));
        values.push(format!("owner-uid:{group}/{kind}/{}", owner.uid));
        if owner.controller {
            values.push(format!("controller-key:{group}/{kind}/{}", owner.name));
            values.push(format!("controller-uid:{group}/{kind}/{}", owner.uid));
        }
    }
    values
}

/// The group of `apps/v1`; of `v1`, `core`. What has more parts has no group that can be read.
fn owner_group(api_version: &str) -> &str {
    match api_version.split_once('/') {
        Some((group, version)) if !group.is_empty() && !version.contains('/') => group,
        _ => "core",
    }
}
