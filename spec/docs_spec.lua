-- Every ```lua block of the documentation runs.
--
-- A block is a program of its own. In docs/ a block that does not say `require "concur"` finds
-- `concur` anyway. What a block prints is compared with its comments: of the lines that print,
-- those that end in `--> text` must print just that, in that order. After `lua` may stand
--   no-run   a fragment that cannot stand alone
--   error    the program must fail
local support = require "spec.support"

local MAX_SECONDS = 20

---The Lua blocks of a Markdown file.
local function blocks(path)
  local found, block, fence = {}, nil, nil
  local number = 0
  for line in io.lines(support.root .. "/" .. path) do
    number = number + 1
    local indent, ticks, info = line:match "^(%s*)(```+)%s*(.-)%s*$"
    if block and ticks and #ticks >= #fence and info == "" then
      found[#found + 1] = block.kind and block or nil
      block = nil
    elseif block then
      block.lines[#block.lines + 1] = line:sub(#block.indent + 1)
    elseif ticks then
      local kind = info == "lua" and "run" or info:match "^lua%s+(%S+)$"
      block, fence = { kind = kind, line = number, indent = indent, lines = {} }, ticks
    end
  end
  assert(not block, path .. ": a code block has no end")
  return found
end

-- What the block says that it prints, or nil when it says nothing about it.
local function promised_output(lines)
  local promised
  for _, line in ipairs(lines) do
    local text = line:match "print%s*[%(\"'].*%-%->%s?(.-)%s*$"
    if text then
      promised = promised or {}
      promised[#promised + 1] = text
    end
  end
  return promised
end

-- The pages show crashes as the system reports them, not as a sanitizer does.
local function environment()
  local env = {}
  for _, name in ipairs { "ASAN_OPTIONS", "TSAN_OPTIONS" } do
    env[name] = (os.getenv(name) or "") .. ":handle_segv=0"
  end
  return env
end

local function run(path, block)
  local code = table.concat(block.lines, "\n")
  if path ~= "README.md" and not code:find "require%s*%(?[\"']concur[\"']" then
    code = 'local concur = require "concur" ' .. code
  end
  -- Empty lines in front: the line numbers in errors are those of the page.
  local script = support.tmpdir() .. "/" .. path:gsub("/", "_")
  support.write_file(script, ("\n"):rep(block.line) .. code)
  return support.run_file(script, { timeout = MAX_SECONDS, cwd = support.tmpdir(),
    env = environment() })
end

local function check(path, block)
  if block.kind == "no-run" then
    return
  end
  assert(block.kind == "run" or block.kind == "error", "unknown word after lua: " .. block.kind)
  local result = run(path, block)
  if block.kind == "error" then
    assert.is_true(result.code == 1 and not result.timed_out, support.describe(result))
  else
    assert.equal(0, result.code, support.describe(result))
  end
  local promised = promised_output(block.lines)
  if promised then
    assert.equal(table.concat(promised, "\n"), (result.stdout:gsub("%s+$", "")))
  end
end

local pages = support.files("docs", "%.md$")
table.insert(pages, 1, "README.md")

describe("the code blocks of the documentation", function()
  local fragments, total = 0, 0
  for _, path in ipairs(pages) do
    for _, block in ipairs(blocks(path)) do
      total = total + 1
      fragments = fragments + (block.kind == "no-run" and 1 or 0)
      if block.kind ~= "no-run" then
        it(("run: %s:%d"):format(path, block.line), function()
          check(path, block)
        end)
      end
    end
  end

  it("are mostly programs, not fragments", function()
    assert.is_true(total > 0)
    assert.is_true(fragments <= total / 5,
      ("%d of %d blocks are marked no-run"):format(fragments, total))
  end)
end)

describe("the links between pages", function()
  it("lead to files that exist", function()
    local lfs = require "lfs"
    local broken = {}
    local all = { table.unpack(pages) }
    for _, name in ipairs { "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md" } do
      all[#all + 1] = name
    end
    for _, path in ipairs(all) do
      local folder = path:match "^(.*/)[^/]*$" or ""
      for target in support.read_file(path):gmatch "%]%(([^)%s#]+)[^)]*%)" do
        if not target:find "^%a+:" and not lfs.attributes(folder .. target) then
          broken[#broken + 1] = path .. ": " .. target
        end
      end
    end
    assert.same({}, broken)
  end)
end)
