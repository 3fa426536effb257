-- SPDX-License-Identifier: MIT
--
-- A receiver of signals that nobody waited in kept the loop alive, so that a program that waited for
-- something that could not come hung instead of hearing of it.

local concur = require "concur"
local errors = concur.errors

describe("an open receiver of signals", function()
  it("hides no deadlock while nobody waits in it", function()
    local receiver <close> = concur.signal.receive "SIGWINCH"
    local ok, err = pcall(concur.run, concur.sleep_forever)
    assert.is_false(ok)
    assert.is_true(errors.is(err, "Deadlock"))
    -- Also after somebody has waited in it, and in an arm.
    assert.is_false((concur.move_on_after(0.01, receiver)))
    assert.equal("late", (concur.select { signal = receiver:receiving(), late = concur.after(0) }))
    ok, err = pcall(concur.run, concur.sleep_forever)
    assert.is_false(ok)
    assert.is_true(errors.is(err, "Deadlock"))
  end)

  it("is no deadlock for who waits in it", function()
    local receiver <close> = concur.signal.receive "SIGWINCH"
    local child = assert(concur.process.spawn { "sleep 0.1; kill -s WINCH $PPID", shell = true })
    assert.equal("SIGWINCH", receiver())
    child:close()
  end)
end)
