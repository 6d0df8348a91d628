//! What has to happen on the server at once, as scripts in Lua.
//!
//! The server keeps them by their digest, so they travel once. Not here: when they run.

use std::sync::LazyLock;

use redis::Script;

/// The value of a key where it is at most as large as the argument says. A list: 0 for none, 1 and the
/// value, or 2 and its size.
pub(super) static GET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local n = redis.call('STRLEN', KEYS[1])
        if n > tonumber(ARGV[1]) then return {2, n} end
        local value = redis.call('GET', KEYS[1])
        if value == false then return {0} end
        return {1, value}
        ",
    )
});

/// The values of keys where all together are at most as large as the argument says: a list of them, or
/// their size.
pub(super) static GET_MANY: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local n = 0
        for _, key in ipairs(KEYS) do n = n + redis.call('STRLEN', key) end
        if n > tonumber(ARGV[1]) then return n end
        local all = {}
        for i, key in ipairs(KEYS) do all[i] = redis.call('GET', key) end
        return all
        ",
    )
});

/// Sets a value if the key is as the first argument says: `-` for none, or `=` and its value. A list: 1,
/// or 0 and the value that is there, if any.
pub(super) static SWAP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local value = redis.call('GET', KEYS[1])
        local state = '-'
        if value ~= false then state = '=' .. value end
        if state == ARGV[1] then
            redis.call('SET', KEYS[1], ARGV[2])
            return {1}
        end
        if value == false then return {0} end
        return {0, value}
        ",
    )
});

/// The first argument is how many checks there are. The first keys are theirs, with one argument each as
/// in [`SWAP`]; the others are those of the edits, with two: milliseconds to live and a value, where
/// `0` is without an end and `d` deletes. 1 if it was done.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local checks = tonumber(ARGV[1])
        for i = 1, checks do
            local value = redis.call('GET', KEYS[i])
            local state = '-'
            if value ~= false then state = '=' .. value end
            if state ~= ARGV[1 + i] then return 0 end
        end
        local at = 1 + checks
        for i = checks + 1, #KEYS do
            local how = ARGV[at + 1]
            if how == 'd' then
                redis.call('DEL', KEYS[i])
            elseif how == '0' then
                redis.call('SET', KEYS[i], ARGV[at + 2])
            else
                redis.call('SET', KEYS[i], ARGV[at + 2], 'PX', how)
            end
            at = at + 2
        end
        return 1
        ",
    )
});
