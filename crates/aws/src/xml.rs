//! XML answers, within limits.

use roxmltree::{Document, Node, ParsingOptions};

/// How many nodes an answer may have.
const MAX_NODES: u32 = 400_000;

/// Reads an answer. Documents with their own entities are none.
pub(crate) fn parse(text: &[u8]) -> Option<Document<'_>> {
    let text = std::str::from_utf8(text).ok()?;
    let options = ParsingOptions { allow_dtd: false, nodes_limit: MAX_NODES, ..Default::default() };
    Document::parse_with_options(text, options).ok()
}

/// The first child element of this name, whatever its namespace.
pub(crate) fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|it| it.is_element() && it.tag_name().name() == name)
}

/// The element at the end of a path of names.
pub(crate) fn at<'a>(node: Node<'a, 'a>, path: &[&str]) -> Option<Node<'a, 'a>> {
    path.iter().try_fold(node, |node, name| child(node, name))
}

/// The text at the end of a path of names.
pub(crate) fn text(node: Node<'_, '_>, path: &[&str]) -> Option<String> {
    let mut found = node;
    for name in path {
        found = found.children().find(|it| it.is_element() && it.tag_name().name() == *name)?;
    }
    Some(found.text().unwrap_or_default().to_owned())
}

/// The members of the list at the end of a path of names; `item` in EC2's answers, `member` in
/// others'.
pub(crate) fn list<'a>(
    node: Node<'a, 'a>,
    path: &[&str],
    member: &'static str,
) -> impl Iterator<Item = Node<'a, 'a>> + use<'a> {
    at(node, path)
        .into_iter()
        .flat_map(|list| list.children())
        .filter(move |it| it.is_element() && it.tag_name().name() == member)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_read_whatever_their_namespace() {
        let answer = parse(b"<R xmlns='http://x/'><a><item>1</item><item>2</item></a><b/></R>");
        let answer = answer.unwrap();
        let root = answer.root_element();
        let items: Vec<_> = list(root, &["a"], "item").filter_map(|it| it.text()).collect();
        assert_eq!(items, ["1", "2"]);
        assert_eq!(text(root, &["b"]).as_deref(), Some(""));
        assert_eq!(text(root, &["a", "none"]), None);
    }

    #[test]
    fn documents_that_would_cost_much_are_refused() {
        let bomb = b"<!DOCTYPE a [<!ENTITY b 'bb'>]><a>&b;</a>";
        assert!(parse(bomb).is_none());
        let deep = "<a>".repeat(200_000);
        assert!(parse(deep.as_bytes()).is_none());
        let many = format!("<a>{}</a>", "<b/>".repeat(500_000));
        assert!(parse(many.as_bytes()).is_none());
        assert!(parse(b"\xff").is_none());
    }
}
