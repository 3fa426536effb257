-- The helpers that the other specs trust: a check that finds nothing must be able to find things.
local support = require "spec.support"

-- Runs a spec file of its own in a child busted and returns what it printed.
local function run_spec(body, env)
  local path = support.tmpdir() .. "/child_spec.lua"
  support.write_file(path, body)
  return support.run_file("scripts/busted.lua", { args = { "-o", "plainTerminal", path },
    env = env })
end

local function assert_left_behind(what, body)
  local result = run_spec(("it('leaks', function() %s end)"):format(body))
  assert.are_not.equal(0, result.code, support.describe(result))
  assert.is_truthy(result.stdout:find("'leaks' left behind", 1, true), support.describe(result))
  assert.is_truthy(result.stdout:find(what, 1, true), support.describe(result))
end

describe("the check after each spec", function()
  it("passes a spec that leaves nothing", function()
    local result = run_spec [[
      local concur = require "concur"
      it("is clean", function()
        concur.run(function() concur.gather(function() concur.sleep(0.001) end) end)
        local file <close> = io.open "/dev/null"
      end)]]
    assert.equal(0, result.code, support.describe(result))
  end)

  it("finds an open descriptor", function()
    assert_left_behind("descriptors: ", "_G.kept = io.open '/dev/null'")
  end)

  it("finds a live task", function()
    assert_left_behind("tasks: ", "_G.kept = require('concur').spawn(function() end)")
  end)

  it("finds a timer", function()
    assert_left_behind("timers: ", [[
      require('concur').get_event_loop():call_later(60, function() end)]])
  end)
end)

describe("the runner", function()
  it("exits with an error when a spec fails, and when one raises", function()
    for _, body in ipairs { "assert.equal(1, 2)", "error 'oops'", "error { kind = 'Odd' }" } do
      local result = run_spec(("it('goes wrong', function() %s end)"):format(body))
      assert.equal(1, result.code, support.describe(result))
    end
  end)
end)

describe("a child interpreter", function()
  it("gets its arguments byte for byte", function()
    local words = { "two words", "it's", "$HOME", "a\nb", "", "*" }
    local out = support.check_lua("io.write(table.concat(arg, '|'))", { args = words })
    assert.equal(table.concat(words, "|"), out)
  end)

  it("gives its exit code, both outputs and its input back", function()
    local result = support.run_lua([[
      io.stdout:write("out:" .. io.read "a") io.stderr:write "err" os.exit(7)]], { stdin = "in" })
    assert.same({ code = 7, timed_out = false, stdout = "out:in", stderr = "err" }, result)
  end)

  it("shows the signal that ended it", function()
    local result = support.run_lua("os.execute 'kill -KILL $PPID'")
    assert.equal(9, result.signal)
    assert.is_nil(result.code)
  end)

  it("is killed when it takes too long", function()
    local result = support.run_lua("while true do end", { timeout = 0.3 })
    assert.is_true(result.timed_out)
  end)

  it("sees the variables it is given, and not those taken away", function()
    local out = support.check_lua("print(os.getenv 'GIVEN', os.getenv 'HOME')",
      { env = { GIVEN = "a b", HOME = false } })
    assert.equal("a b\tnil\n", out)
  end)
end)

describe("a seed", function()
  it("repeats the numbers, and a failure shows it", function()
    local body = [[
      local support = require "spec.support"
      it("fails", function()
        assert.equal(4242, support.seed())
        error(math.random(1000000))
      end)]]
    local first, second = run_spec(body, { CONCUR_SEED = "4242" }),
      run_spec(body, { CONCUR_SEED = "4242" })
    assert.is_truthy(first.stderr:find("CONCUR_SEED=4242", 1, true), support.describe(first))
    assert.equal(first.stdout:match "child_spec.lua:4: (%d+)",
      second.stdout:match "child_spec.lua:4: (%d+)")
  end)
end)
