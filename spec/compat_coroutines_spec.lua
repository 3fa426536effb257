-- SPDX-License-Identifier: MIT
-- Coroutines that may wait, for modules loaded by socket.require: like Lua's own, but for the waiting.

local concur = require "concur"
local coroutines = require "concur.compat.coroutines"
local virtual = require "spec.support.virtual"

-- What a body with two yields makes of its values, with a library of coroutines.
local function history(library)
  local lines = {}
  local function note(...)
    lines[#lines + 1] = table.pack(...)
  end
  local co = library.create(function(a, b)
    note("begins", a, b)
    note("got", library.yield(1, nil, 3))
    note("got", library.yield())
    return "end", nil
  end)
  note(library.status(co))
  note(library.resume(co, "a", "b"))
  note(library.status(co))
  note(library.resume(co, nil, 2))
  note(library.resume(co))
  note(library.status(co))
  note(library.resume(co))
  local failing = library.create(function()
    library.yield "once"
    error({ "an object" })
  end)
  note(library.resume(failing))
  local ok, err = library.resume(failing)
  note(ok, err[1], library.status(failing))
  local closed = library.create(function() library.yield() end)
  library.resume(closed)
  note(library.close(closed))
  note(library.status(closed))
  local inside
  inside = library.create(function() note(library.status(inside), library.resume(inside)) end)
  library.resume(inside)
  local wrapped = library.wrap(function(x) library.yield(x) return "over" end)
  note(wrapped "x", wrapped())
  return lines
end

describe("coroutines that may wait", function()
  it("answer what Lua's own answer", function()
    local expected = history(coroutine)
    assert.same(expected, history(coroutines))
    concur.run(function()
      assert.same(expected, history(coroutines))
    end)
  end)

  it("wait, while other tasks run", function()
    virtual.run(function()
      local order = {}
      local co = coroutines.create(function()
        concur.sleep(1)
        order[#order + 1] = "slept"
        coroutine.yield "first"
        concur.sleep(1)
        return "last"
      end)
      concur.spawn(function()
        concur.sleep(0.5)
        order[#order + 1] = "another"
      end)
      assert.same({ true, "first" }, { coroutines.resume(co) })
      assert.same({ true, "last" }, { coroutines.resume(co) })
      assert.same({ "another", "slept" }, order)
      assert.equal(2, concur.now())
    end)
  end)

  it("let cancellation through", function()
    virtual.run(function()
      local co = coroutines.create(function() concur.sleep(10) end)
      assert.is_false((concur.move_on_after(1, coroutines.resume, co)))
    end)
  end)

  it("take real threads as well", function()
    local co = coroutine.create(function() coroutine.yield(1) end)
    assert.same({ true, 1 }, { coroutines.resume(co) })
    assert.equal("suspended", coroutines.status(co))
    assert.is_true(coroutines.close(co))
    assert.equal(coroutine.isyieldable, coroutines.isyieldable)
    assert.matches("function expected", tostring(virtual.failure(coroutines.create, 1)))
  end)
end)
