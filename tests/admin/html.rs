//! A document as a browser reads it: its elements and its text, and whether there was anything wrong with it.

use std::borrow::Cow;
use std::cell::RefCell;

use html5ever::tendril::{StrTendril, TendrilSink};
use html5ever::tree_builder::{ElementFlags, NodeOrText, QuirksMode, TreeSink};
use html5ever::{Attribute, ExpandedName, ParseOpts, QualName, parse_document};

/// An element: its name, its attributes, the text in it (that of the elements in it too) and where it stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Element {
    pub(crate) name: String,
    attributes: Vec<(String, String)>,
    pub(crate) text: String,
    parent: Option<usize>,
}

impl Element {
    pub(crate) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&str, &str)> {
        self.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// What a document holds, in its order.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) elements: Vec<Element>,
    pub(crate) errors: Vec<String>,
}

impl Document {
    /// Reads a document that has nothing wrong with it.
    #[track_caller]
    pub(crate) fn read(text: &str) -> Self {
        let sink = Sink { names: RefCell::default(), document: RefCell::default() };
        let read = parse_document(sink, ParseOpts::default()).one(text);
        assert_eq!(read.errors, [""; 0], "{text}");
        read
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &Element> {
        self.elements.iter().filter(move |element| element.name == name)
    }

    /// Where its links lead.
    pub(crate) fn links(&self) -> Vec<&str> {
        self.all("a").filter_map(|link| link.attribute("href")).collect()
    }

    /// The link whose text begins with this.
    #[track_caller]
    pub(crate) fn link(&self, text: &str) -> &str {
        let found = self.all("a").find(|link| link.text.trim_start().starts_with(text));
        found.unwrap_or_else(|| panic!("no link begins with {text:?}")).attribute("href").unwrap()
    }

    /// What its form hides.
    pub(crate) fn hidden(&self) -> Vec<(String, String)> {
        let hidden = self.all("input").filter(|input| input.attribute("type") == Some("hidden"));
        let value = |input: &Element, name| input.attribute(name).unwrap().to_owned();
        hidden.map(|input| (value(input, "name"), value(input, "value"))).collect()
    }

    /// The text of the whole page.
    pub(crate) fn text(&self) -> &str {
        &self.all("main").next().expect("a page has one main part").text
    }

    /// The texts of a table's cells, row by row.
    pub(crate) fn rows(&self) -> Vec<Vec<&str>> {
        let rows = self.elements.iter().enumerate().filter(|(_, element)| element.name == "tr");
        let cells = |row: usize| {
            let cells = self.elements.iter().filter(move |cell| cell.parent == Some(row));
            cells.map(|cell| cell.text.trim()).collect()
        };
        rows.map(|(row, _)| cells(row)).collect()
    }
}

/// Takes what the parser finds. A handle is one more than an element's place; the document itself is 0.
struct Sink {
    names: RefCell<Vec<&'static QualName>>,
    document: RefCell<Document>,
}

impl Sink {
    fn add(&self, parent: usize, child: NodeOrText<usize>) {
        let mut document = self.document.borrow_mut();
        match child {
            NodeOrText::AppendNode(node) => {
                document.elements[node - 1].parent = parent.checked_sub(1);
            }
            NodeOrText::AppendText(text) => {
                let mut place = parent.checked_sub(1);
                while let Some(at) = place {
                    document.elements[at].text.push_str(&text);
                    place = document.elements[at].parent;
                }
            }
        }
    }
}

impl TreeSink for Sink {
    type Handle = usize;
    type Output = Document;
    type ElemName<'a> = ExpandedName<'a>;

    fn finish(self) -> Document {
        self.document.into_inner()
    }

    fn parse_error(&self, message: Cow<'static, str>) {
        self.document.borrow_mut().errors.push(message.into_owned());
    }

    fn get_document(&self) -> usize {
        0
    }

    fn elem_name(&self, target: &usize) -> ExpandedName<'_> {
        let name: &'static QualName = self.names.borrow()[target - 1];
        name.expanded()
    }

    fn create_element(&self, name: QualName, attributes: Vec<Attribute>, _: ElementFlags) -> usize {
        let mut document = self.document.borrow_mut();
        let attributes = attributes.into_iter().map(|it| (it.name.local.to_string(), it.value.to_string())).collect();
        document.elements.push(Element { name: name.local.to_string(), attributes, ..Element::default() });
        // The trait lends names for as long as the parser likes; a test's end gives them back.
        self.names.borrow_mut().push(Box::leak(Box::new(name)));
        document.elements.len()
    }

    fn create_comment(&self, _: StrTendril) -> usize {
        panic!("no page has a comment")
    }

    fn create_pi(&self, _: StrTendril, _: StrTendril) -> usize {
        panic!("no page has an instruction")
    }

    fn append(&self, parent: &usize, child: NodeOrText<usize>) {
        self.add(*parent, child);
    }

    fn append_based_on_parent_node(&self, element: &usize, _: &usize, child: NodeOrText<usize>) {
        self.add(*element, child);
    }

    fn append_doctype_to_document(&self, name: StrTendril, _: StrTendril, _: StrTendril) {
        assert_eq!(&*name, "html");
    }

    fn get_template_contents(&self, _: &usize) -> usize {
        panic!("no page has a template")
    }

    fn same_node(&self, one: &usize, other: &usize) -> bool {
        one == other
    }

    fn set_quirks_mode(&self, mode: QuirksMode) {
        assert!(mode == QuirksMode::NoQuirks, "a page says which HTML it is");
    }

    fn append_before_sibling(&self, _: &usize, _: NodeOrText<usize>) {
        panic!("nothing stands where it does not belong")
    }

    fn add_attrs_if_missing(&self, _: &usize, _: Vec<Attribute>) {}

    fn remove_from_parent(&self, _: &usize) {
        panic!("nothing stands where it does not belong")
    }

    fn reparent_children(&self, _: &usize, _: &usize) {
        panic!("nothing stands where it does not belong")
    }
}

#[test]
fn what_is_wrong_with_a_document_is_found() {
    let right = "<!DOCTYPE html><html lang=\"en\"><head><title>a</title></head>\
                 <body><main><p>b &lt; c</p></main></body></html>";
    assert_eq!(Document::read(right).text(), "b < c");
    let wrong = [("<p>b", "<p>b<div></p>"), ("<!DOCTYPE html>", ""), ("</main>", "</b>")];
    for (old, new) in wrong {
        let text = right.replace(old, new);
        let read = std::panic::catch_unwind(|| Document::read(&text).elements.len());
        assert!(read.is_err(), "{text}");
    }
}
