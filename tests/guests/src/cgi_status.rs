//! CGI: heads of every form; the query chooses one.

fn main() {
    let head = match std::env::var("QUERY_STRING").as_deref() {
        Ok("missing") => "Status: 404 Not Found\nContent-Type: text/plain\n\nnot here\n",
        Ok("local") => "Location: /elsewhere?x=1\n\n",
        Ok("absolute") => "Location: https://shop.example.com/\n\n",
        Ok("moved") => {
            "Status: 301 Moved\nLocation: /\nContent-Type: text/plain\nSet-Cookie: a=1\nSet-Cookie: b=2\n\nmoved\n"
        }
        Ok("empty") => "Status: 204 No Content\n\n",
        Ok("framed") => {
            "Content-Type: text/plain\nTransfer-Encoding: chunked\nConnection: x\n\nwhole\n"
        }
        Ok("longer") => "Content-Type: text/plain\nContent-Length: 3\n\nabcdef",
        Ok("shorter") => "Content-Type: text/plain\nContent-Length: 9\n\nabc",
        Ok(_) | Err(_) => "Content-Type: text/plain\n\nwhat?\n",
    };
    print!("{head}");
}
