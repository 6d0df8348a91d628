//! Exports a function of its own and no world that a host runs.

mod bindings {
    wit_bindgen::generate!({ path: "wit", world: "library" });
    export!(Library);

    struct Library;

    impl Guest for Library {
        fn add(left: u32, right: u32) -> u32 {
            left.wrapping_add(right)
        }
    }
}
