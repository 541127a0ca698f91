//! What must not compile: a payload on another payload's subject.

#[test]
fn mix_ups_of_subject_and_payload_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
