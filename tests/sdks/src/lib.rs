//! Nothing: each guest is an example with the SDK that it is built with.
