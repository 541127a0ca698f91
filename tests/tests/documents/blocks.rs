//! Every block of the pages that people start from, executed.

use super::session::Session;

#[test]
fn every_block_of_the_quick_start_does_what_the_page_says() {
    Session::start("quick-start").follow("docs/quick-start.md");
}

#[test]
fn every_block_of_the_readme_does_what_the_page_says() {
    Session::start("readme").follow("README.md");
}
