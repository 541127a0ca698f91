//! Every block of the pages that people start from, executed.

use super::session::Session;

#[test]
fn every_block_of_the_quick_start_does_what_the_page_says() {
    Session::start("quick-start").follow("docs/quick-start.md");
}

#[test]
fn every_block_about_http_does_what_the_page_says_to_curl() {
    Session::start("http").follow("docs/http.md");
}

#[test]
fn every_block_of_the_readme_does_what_the_page_says() {
    Session::start("readme").follow("README.md");
}
